//! Compiles the component for WASI 0.3.

use dingtalk_component_builder::{BINDING_P3, Builder, Result, report};

fn main() {
    report(build());
}

fn build() -> Result<()> {
    let builder = Builder::new("components/bench")?;
    builder.write("dingtalk-binding-p3.wasm", &builder.component(&BINDING_P3)?)
}
