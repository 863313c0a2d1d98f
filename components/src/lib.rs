//! Every component that this repository publishes, as the bytes that a runtime loads. `components/publish` writes them.

mod publish;

pub use publish::{Origin, published};

/// Every component as a constant of its own, and [`COMPONENTS`], which has them all. The build script has written each file.
macro_rules! components {
    ($($(#[$description:meta])* $constant:ident = $name:literal;)*) => {
        $(
            $(#[$description])*
            pub const $constant: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".wasm"));
        )*

        /// Every component, by the name of its file without ".wasm".
        pub const COMPONENTS: &[(&str, &[u8])] = &[$(($name, $constant)),*];
    };
}

components! {
    /// The binding, of world `dingtalk:component/binding@0.2.0`: the component that the host runs.
    BINDING = "dingtalk-binding";

    /// The binding for WASI 0.3, of world `dingtalk:component-p3/binding@0.2.0`.
    BINDING_P3 = "dingtalk-binding-p3";

    /// HTTP in front of that binding, and a handler that posts to an application: of world
    /// `dingtalk:component-p3/gateway@0.2.0`, for every runtime that gives requests to `wasi:http/handler`.
    GATEWAY_P3 = "dingtalk-gateway-p3";

    /// A handler that takes no message, of world `dingtalk:binding/handler-app@0.2.0`.
    NO_HANDLER = "dingtalk-no-handler";

    /// The binding with that handler, for who only sends: its imports are WASI's alone.
    OUTPUT = "dingtalk-output";

    /// HTTP in front of the binding, and the handler that posts to an application: of world
    /// `dingtalk:component/gateway@0.2.0`, for every runtime that gives requests to `wasi:http/incoming-handler`.
    GATEWAY = "dingtalk-gateway";

    /// The same without a handler: it imports `dingtalk:binding/handler@0.2.0`, which an application's component fills.
    GATEWAY_OPEN = "dingtalk-gateway-open";

    /// The handler in [`GATEWAY`], which posts to an application; for who puts something in front of it.
    DELIVERY = "dingtalk-delivery";

    /// [`GATEWAY`] with [`REMEMBER`] in front of its handler.
    GATEWAY_REMEMBER = "dingtalk-gateway-remember";

    /// [`GATEWAY`] with [`REMEMBER_SPIN`] in front of its handler.
    GATEWAY_REMEMBER_SPIN = "dingtalk-gateway-remember-spin";

    /// What remembers messages in the runtime's key-value store: a handler in front of another one. Of world
    /// `dingtalk:component/remember@0.2.0`.
    REMEMBER = "dingtalk-remember";

    /// The same with Spin's version of the store, of world `dingtalk:component/remember-spin@0.2.0`.
    REMEMBER_SPIN = "dingtalk-remember-spin";
}

/// The package `dingtalk:binding` of wit/, for registries.
pub const INTERFACES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-binding.wit.wasm"));

/// The same package as one text.
pub const INTERFACES_TEXT: &str = include_str!(concat!(env!("OUT_DIR"), "/dingtalk-binding.wit"));
