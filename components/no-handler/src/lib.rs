//! The handler of an application that only sends: it takes no message. Composed with the binding it makes a component
//! whose imports are WASI's alone.
//!
//! Nothing is here but on WebAssembly: only there is it a component.

#![cfg(target_family = "wasm")]
#![no_std]

extern crate alloc;

use alloc::vec::Vec;

use talc::wasm::{WasmDynamicTalc, new_wasm_dynamic_allocator};

#[allow(missing_docs, unreachable_pub, unsafe_code, reason = "generated from wit/, where the documentation is")]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "dingtalk:binding/handler-app" });

    export!(NoHandler with_types_in self);
    use super::NoHandler;
}

use bindings::exports::dingtalk::binding::handler::{Event, Guest, HandlerError};

struct NoHandler;

impl Guest for NoHandler {
    fn handle(_: Event) -> Result<Option<Vec<u8>>, HandlerError> {
        Err(HandlerError::NotReading)
    }
}

/// Where a message is put that is given all the same.
#[global_allocator]
static ALLOCATOR: WasmDynamicTalc = new_wasm_dynamic_allocator();

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
