//! Compiles and composes the components.

use dingtalk_component_builder::{BINDING, BINDING_P3, Builder, Guest, Result, report, without_names};
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

fn main() {
    report(build());
}

fn build() -> Result<()> {
    let builder = Builder::new("components")?;
    let binding = builder.component(&BINDING)?;
    let no_handler = builder.component(&NO_HANDLER)?;
    builder.write("dingtalk-output.wasm", &composed("dingtalk-output", &binding, &[&no_handler])?)?;
    builder.write("dingtalk-no-handler.wasm", &no_handler)?;
    builder.write("dingtalk-binding-p3.wasm", &builder.component(&BINDING_P3)?)?;
    builder.write("dingtalk-binding.wasm", &binding)
}

/// `socket` with its imports filled by what `plugs` export. Imports that none of them fills stay imports; the exports
/// are the socket's.
fn composed(name: &str, socket: &[u8], plugs: &[&[u8]]) -> Result<Vec<u8>> {
    let failed = |what: &dyn std::fmt::Display| format!("{name} cannot be composed: {what}");
    let mut graph = CompositionGraph::new();
    let mut register = |part: String, bytes: &[u8]| {
        let package = Package::from_bytes(&part, None, bytes, graph.types_mut())
            .map_err(|error| failed(&format!("{part}: {error:#}")))?;
        graph.register_package(package).map_err(|error| failed(&error))
    };
    let socket = register("socket".into(), socket)?;
    let plugs = plugs
        .iter()
        .enumerate()
        .map(|(position, plug)| register(format!("plug{position}"), plug))
        .collect::<Result<Vec<_>>>()?;
    plug(&mut graph, plugs, socket).map_err(|error| failed(&error))?;
    let options = EncodeOptions { define_components: true, validate: true, processor: None };
    let component = graph.encode(options).map_err(|error| failed(&error))?;
    without_names(&component).map_err(|error| failed(&error))
}
