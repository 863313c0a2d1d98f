//! The application's side of the contract of wit/, as Rust types.

#[allow(missing_docs, unreachable_pub, reason = "generated from wit/, where the documentation is")]
mod generated {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "dingtalk:binding/handler-app",
        exports: { default: async },
    });
}

pub(super) use generated::dingtalk::binding::types::{Event, HandlerError};
pub(super) use generated::{HandlerApp, HandlerAppPre};

/// What an application exports, by its full name.
pub(super) const HANDLER: &str = "dingtalk:binding/handler@0.2.0";
