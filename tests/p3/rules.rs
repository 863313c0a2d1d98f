//! Why the functions that wait have other types for WASI 0.3: what wasmtime says to a component that exports
//! dingtalk:binding's `invoke`, whose type is not async, and waits in it. docs/hosts.md quotes these texts.

use dingtalk_bench::{Wasi, engine};
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store};

/// A component whose export "invoke" calls its import "send", an async function, and waits for it.
fn waiting(export: &str, lift: &str) -> String {
    format!(
        r#"(component
            (import "send" (func $send async))
            (core func $lowered (canon lower (func $send)))
            (core module $module
                (import "" "send" (func $send))
                (func (export "invoke") (call $send))
                (func (export "start") (result i32) (call $send) (i32.const 0))
                (func (export "callback") (param i32 i32 i32) (result i32) (i32.const 0)))
            (core instance $instance (instantiate $module (with "" (instance (export "send" (func $lowered))))))
            (func (export "invoke") {export} (canon lift {lift})))"#
    )
}

const SYNC: &str = r#"(core func $instance "invoke")"#;
const ASYNC: &str = r#"(core func $instance "start") async (callback (core func $instance "callback"))"#;

fn component(engine: &Engine, text: &str) -> wasmtime::Result<Component> {
    Component::from_binary(engine, &wat::parse_str(text).unwrap())
}

/// Calls "invoke", with a "send" that does not answer at once.
async fn invoked(text: &str) -> wasmtime::Result<()> {
    let engine = engine(Wasi::P3)?;
    let component = component(&engine, text)?;
    let mut linker = Linker::new(&engine);
    linker.root().func_wrap_concurrent("send", |_, (): ()| {
        Box::pin(async {
            tokio::task::yield_now().await;
            Ok(())
        })
    })?;
    let mut store = Store::new(&engine, ());
    store.set_fuel(1_000_000)?;
    let instance = linker.instantiate_async(&mut store, &component).await?;
    instance.get_typed_func::<(), ()>(&mut store, "invoke")?.call_async(&mut store, ()).await
}

#[tokio::test]
async fn a_function_whose_type_is_not_async_may_not_wait() {
    let trap = invoked(&waiting("", SYNC)).await.unwrap_err();
    assert_eq!(trap.root_cause().to_string(), "wasm trap: cannot block a synchronous task before returning");
    invoked(&waiting("async", SYNC)).await.unwrap();
}

#[tokio::test]
async fn a_function_whose_type_is_not_async_cannot_be_lifted_so_that_calls_overlap() {
    let engine = engine(Wasi::P3).unwrap();
    let error = component(&engine, &waiting("", ASYNC)).map(drop).unwrap_err();
    let text = "the `async` canonical option requires an async function type";
    assert!(format!("{error:#}").contains(text), "{error:#}");
    component(&engine, &waiting("async", ASYNC)).unwrap();
}
