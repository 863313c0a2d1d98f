//! The DingTalk group robot binding.
//!
//! Compiled to WebAssembly with the feature `component`, this library is the component: `exports` and `transport` are
//! its edges towards WIT and wasi:http, `allocator` its memory. Everything else is pure functions over bytes and time,
//! compiled and tested natively too, and used by the host and other components where they need the same rule;
//! `contract` has the types of wit/.
//!
//! Without the standard library: its panic handler alone would bring the component 20 KiB of formatting.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod address;
pub mod answer;
pub mod callback;
pub mod contract;
pub mod duration;
pub mod endpoint;
pub mod error;
pub mod failure;
mod inline;
pub mod json;
pub mod markdown;
pub mod mention;
pub mod message;
pub mod operation;
pub mod receive;
pub mod reply;
pub mod secret;
pub mod session;
pub mod settings;
pub mod signature;
pub mod text;

#[cfg(all(target_family = "wasm", feature = "component"))]
mod allocator;
// The component has it as a part of its memory.
#[cfg(test)]
mod front;

#[cfg(all(target_family = "wasm", feature = "component"))]
mod exports;
#[cfg(all(target_family = "wasm", feature = "component"))]
mod transport;

/// A panic is a defect: the instance ends there, as for any other trap, and the host says so. The message could
/// go nowhere.
#[cfg(all(target_family = "wasm", feature = "component"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
