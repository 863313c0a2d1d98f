//! Compiles the component that the host runs.

use dingtalk_component_builder::{BINDING, Builder, Result, report};

fn main() {
    report(build());
}

fn build() -> Result<()> {
    let builder = Builder::new("host/component")?;
    builder.write("dingtalk-binding.wasm", builder.component(&BINDING)?)
}
