//! The binding as a component for WASI 0.3: the pure modules of `dingtalk-binding` behind async exports, so that calls
//! overlap in one instance. Only the edges are here.

#![no_std]

#[cfg(target_family = "wasm")]
extern crate alloc;

#[cfg(target_family = "wasm")]
#[path = "../../../src/allocator.rs"]
mod allocator;
#[cfg(target_family = "wasm")]
mod exports;
#[cfg(target_family = "wasm")]
mod transport;

/// A panic is a defect: the instance ends there, with every call that is in it.
#[cfg(target_family = "wasm")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
