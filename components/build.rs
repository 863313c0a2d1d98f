//! Compiles and composes the components.

use dingtalk_component_builder::{BINDING, BINDING_P3, Builder, Component, Guest, Result, report};
use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, plug};

/// The handler of who only sends.
const NO_HANDLER: Guest<'static> = Guest {
    package: "dingtalk-no-handler",
    features: &[],
    std: false,
    stack_bytes: Some(4 * 1024),
    rustflags: &[],
    sources: &["components/no-handler"],
};

/// HTTP in front of the binding.
const FRONT: Guest<'static> = Guest {
    package: "dingtalk-front",
    features: &[],
    std: true,
    stack_bytes: Some(256 * 1024),
    rustflags: &[],
    sources: &["src", "api", "components/core", "components/front", "components/wasi"],
};

/// The handler that posts to an application.
const DELIVERY: Guest<'static> = Guest {
    package: "dingtalk-delivery",
    features: &[],
    std: true,
    stack_bytes: Some(256 * 1024),
    rustflags: &[],
    sources: &["src", "api", "components/core", "components/delivery", "components/wasi"],
};

/// HTTP in front of the binding for WASI 0.3.
const FRONT_P3: Guest<'static> = Guest {
    package: "dingtalk-front-p3",
    sources: &["src", "api", "components/core", "components/front-p3", "components/wasi-p3"],
    ..FRONT
};

/// The handler of that gateway.
const DELIVERY_P3: Guest<'static> = Guest {
    package: "dingtalk-delivery-p3",
    sources: &["src", "api", "components/core", "components/delivery-p3", "components/wasi-p3"],
    ..DELIVERY
};

/// What remembers messages before the next handler.
const REMEMBER: Guest<'static> = Guest {
    package: "dingtalk-remember",
    features: &[],
    std: true,
    stack_bytes: Some(64 * 1024),
    rustflags: &[],
    sources: &["src", "components/remember"],
};

/// The same with Spin's store.
const REMEMBER_SPIN: Guest<'static> = Guest { features: &["spin"], ..REMEMBER };

fn main() {
    report(build());
}

fn build() -> Result<()> {
    let builder = Builder::new("components")?;
    let binding = builder.component(&BINDING)?;
    let no_handler = builder.component(&NO_HANDLER)?;
    let output = composed(
        &builder,
        "dingtalk-output",
        "DingTalk group robot binding for who only sends: its imports are WASI's alone",
        &binding,
        &[&no_handler],
    )?;
    builder.write("dingtalk-binding.wasm", &binding)?;
    builder.write("dingtalk-no-handler.wasm", &no_handler)?;
    let binding_p3 = builder.component(&BINDING_P3)?;
    builder.write("dingtalk-binding-p3.wasm", &binding_p3)?;
    builder.write("dingtalk-output.wasm", &output)?;
    let front = builder.component(&FRONT)?;
    let delivery = builder.component(&DELIVERY)?;
    // The front's imports are the binding's exports, and what it leaves open is for an application to fill.
    let open = composed(
        &builder,
        "dingtalk-gateway-open",
        "Dapr's HTTP API and DingTalk's callbacks in front of the binding; an application's component handles messages",
        &front,
        &[&binding],
    )?;
    let gateway = composed(
        &builder,
        "dingtalk-gateway",
        "Dapr's HTTP API and DingTalk's callbacks in front of the binding; messages are posted to an application",
        &open,
        &[&delivery],
    )?;
    builder.write("dingtalk-gateway.wasm", &gateway)?;
    builder.write("dingtalk-gateway-open.wasm", &open)?;
    builder.write("dingtalk-delivery.wasm", &delivery)?;
    for (suffix, guest, store) in
        [("", REMEMBER, "the runtime's key-value store"), ("-spin", REMEMBER_SPIN, "Spin's key-value store")]
    {
        let remember = builder.component(&guest)?;
        let remembering = "Remembers messages, and posts to an application what has not come before";
        let remembering = composed(&builder, "dingtalk-remembering", remembering, &remember, &[&delivery])?;
        let name = format!("dingtalk-gateway-remember{suffix}");
        let description = format!(
            "Dapr's HTTP API and DingTalk's callbacks in front of the binding; messages are remembered in {store} and \
             posted to an application"
        );
        let gateway = composed(&builder, &name, &description, &open, &[&remembering])?;
        builder.write(&format!("{name}.wasm"), &gateway)?;
        builder.write(&format!("dingtalk-remember{suffix}.wasm"), &remember)?;
    }
    let (front, delivery) = (builder.component(&FRONT_P3)?, builder.component(&DELIVERY_P3)?);
    let open = "Dapr's HTTP API and DingTalk's callbacks in front of the binding for WASI 0.3";
    let open = composed(&builder, "dingtalk-gateway-open-p3", open, &front, &[&binding_p3])?;
    let gateway = composed(
        &builder,
        "dingtalk-gateway-p3",
        "Dapr's HTTP API and DingTalk's callbacks in front of the binding for WASI 0.3; messages are posted to an \
         application",
        &open,
        &[&delivery],
    )?;
    builder.write("dingtalk-gateway-p3.wasm", &gateway)?;
    // As in wit/wkg.toml.
    let interfaces = builder.interfaces("Interfaces between applications, DingTalk group robot bindings, and hosts")?;
    builder.write("dingtalk-binding.wit", interfaces.text)?;
    builder.write("dingtalk-binding.wit.wasm", interfaces.binary)
}

/// `socket` with its imports filled by what `plugs` export. Imports that none of them fills stay imports; the exports
/// are the socket's.
fn composed(
    builder: &Builder,
    name: &str,
    description: &str,
    socket: &Component,
    plugs: &[&Component],
) -> Result<Component> {
    let failed = |what: &dyn std::fmt::Display| format!("{name} cannot be composed: {what}");
    let mut graph = CompositionGraph::new();
    let mut register = |part: String, component: &Component| {
        let package = Package::from_bytes(&part, None, component.as_ref(), graph.types_mut())
            .map_err(|error| failed(&format!("{part}: {error:#}")))?;
        graph.register_package(package).map_err(|error| failed(&error))
    };
    let socket_package = register("socket".into(), socket)?;
    let plug_packages = plugs
        .iter()
        .enumerate()
        .map(|(position, plug)| register(format!("plug{position}"), plug))
        .collect::<Result<Vec<_>>>()?;
    plug(&mut graph, plug_packages, socket_package).map_err(|error| failed(&error))?;
    let options = EncodeOptions { define_components: true, validate: true, processor: None };
    let bytes = graph.encode(options).map_err(|error| failed(&error))?;
    let parts: Vec<_> = std::iter::once(socket).chain(plugs.iter().copied()).collect();
    builder.composition(name, description, &bytes, &parts)
}
