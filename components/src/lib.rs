//! Every component that this repository publishes, as the bytes that a runtime loads. `components/publish` writes them.

mod publish;

pub use publish::{Origin, published};

/// The binding, of world `dingtalk:component/binding@0.2.0`: the component that the host runs.
pub const BINDING: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-binding.wasm"));

/// The binding for WASI 0.3, of world `dingtalk:component-p3/binding@0.2.0`.
pub const BINDING_P3: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-binding-p3.wasm"));

/// HTTP in front of that binding, and a handler that posts to an application: of world
/// `dingtalk:component-p3/gateway@0.2.0`, for every runtime that gives requests to `wasi:http/handler`.
pub const GATEWAY_P3: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-gateway-p3.wasm"));

/// A handler that takes no message, of world `dingtalk:binding/handler-app@0.2.0`.
pub const NO_HANDLER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-no-handler.wasm"));

/// The binding with that handler, for who only sends: its imports are WASI's alone.
pub const OUTPUT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-output.wasm"));

/// HTTP in front of the binding, and the handler that posts to an application: of world
/// `dingtalk:component/gateway@0.2.0`, for every runtime that gives requests to `wasi:http/incoming-handler`.
pub const GATEWAY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-gateway.wasm"));

/// The same without a handler: it imports `dingtalk:binding/handler@0.2.0`, which an application's component fills.
pub const GATEWAY_OPEN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-gateway-open.wasm"));

/// The handler in [`GATEWAY`], which posts to an application; for who puts something in front of it.
pub const DELIVERY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-delivery.wasm"));

/// [`GATEWAY`] with [`REMEMBER`] in front of its handler.
pub const GATEWAY_REMEMBER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-gateway-remember.wasm"));

/// [`GATEWAY`] with [`REMEMBER_SPIN`] in front of its handler.
pub const GATEWAY_REMEMBER_SPIN: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-gateway-remember-spin.wasm"));

/// What remembers messages in the runtime's key-value store: a handler in front of another one. Of world
/// `dingtalk:component/remember@0.2.0`.
pub const REMEMBER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-remember.wasm"));

/// The same with Spin's version of the store, of world `dingtalk:component/remember-spin@0.2.0`.
pub const REMEMBER_SPIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-remember-spin.wasm"));

/// The package `dingtalk:binding` of wit/, for registries.
pub const INTERFACES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-binding.wit.wasm"));

/// The same package as one text.
pub const INTERFACES_TEXT: &str = include_str!(concat!(env!("OUT_DIR"), "/dingtalk-binding.wit"));
