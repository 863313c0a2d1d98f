//! A component that does nothing of itself: it hands each function that it imports on as an export, so that a test calls
//! them as a component would, in any order, whoever implements them.

use std::pin::pin;
use std::sync::LazyLock;

use wasmtime::component::{Component, Instance, InstancePre, ResourceAny, Val};
use wasmtime::{Engine, Store};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{Function, Handle, Resolve, Type, TypeDefKind, WorldItem};

use super::super::Aside;
use crate::clock;
use crate::egress::{Egress, Reach};
use crate::sandbox::state::{State, WasiHttp, linker};
use crate::sandbox::{Limits, Processor, config};

pub(super) const BOTH: [WasiHttp; 2] = [WasiHttp::Own, WasiHttp::Wasmtime];

/// Where each kind of thing is declared, and its functions: those of an export begin with the kind's name.
const KINDS: [(&str, &str); 11] = [
    ("pollable", "wasi:io/poll@0.2.12"),
    ("error", "wasi:io/error@0.2.12"),
    ("output-stream", "wasi:io/streams@0.2.12"),
    ("input-stream", "wasi:io/streams@0.2.12"),
    ("fields", "wasi:http/types@0.2.12"),
    ("outgoing-request", "wasi:http/types@0.2.12"),
    ("outgoing-body", "wasi:http/types@0.2.12"),
    ("request-options", "wasi:http/types@0.2.12"),
    ("future-incoming-response", "wasi:http/types@0.2.12"),
    ("incoming-response", "wasi:http/types@0.2.12"),
    ("incoming-body", "wasi:http/types@0.2.12"),
];

/// What wasi:http calls the function that is exported by this name.
fn imported(export: &str) -> (&'static str, String) {
    match export {
        "handle" => return ("wasi:http/outgoing-handler@0.2.12", export.to_owned()),
        "http-error-code" => return ("wasi:http/types@0.2.12", export.to_owned()),
        _ => {}
    }
    let of = |(kind, _): &&(&str, &str)| export.strip_prefix(kind).is_some_and(|rest| rest.starts_with('-'));
    let (kind, interface) = KINDS.iter().find(of).unwrap();
    let name = &export[kind.len() + 1..];
    let function = match name {
        "new" => format!("[constructor]{kind}"),
        "from-list" | "finish" => format!("[static]{kind}.{name}"),
        _ => format!("[method]{kind}.{name}"),
    };
    (interface, function)
}

/// The kind of thing that a parameter lends.
fn lent(resolve: &Resolve, ty: Type) -> Option<String> {
    let Type::Id(id) = ty else { return None };
    let TypeDefKind::Handle(Handle::Borrow(mut of)) = resolve.types[id].kind else { return None };
    while let TypeDefKind::Type(Type::Id(alias)) = resolve.types[of].kind {
        of = alias;
    }
    resolve.types[of].name.clone()
}

/// The import and the export of one function: it passes everything on, and gives back what it was lent.
fn wrapper(resolve: &Resolve, index: usize, function: &Function) -> (String, String) {
    let name = |ty: &WasmType| match ty {
        WasmType::I64 | WasmType::PointerOrI64 => "i64",
        WasmType::F32 => "f32",
        WasmType::F64 => "f64",
        _ => "i32",
    };
    let import = resolve.wasm_signature(AbiVariant::GuestImport, function);
    let export = resolve.wasm_signature(AbiVariant::GuestExport, function);
    let types = |types: &[WasmType]| types.iter().map(name).collect::<Vec<_>>().join(" ");
    let (interface, imported) = imported(&function.name);
    let imports = format!(
        "(import \"{interface}\" \"{imported}\" (func $f{index} (param {}) (result {})))",
        types(&import.params),
        types(&import.results)
    )
    .replace("(result )", "");
    let passed: String = (0..export.params.len()).map(|n| format!("(local.get {n})")).collect();
    let call = if import.retptr {
        format!("(call $f{index} {passed} (i32.const 1024)) (local.set $result (i32.const 1024))")
    } else if export.results.is_empty() {
        format!("(call $f{index} {passed})")
    } else {
        format!("(local.set $result (call $f{index} {passed}))")
    };
    // What is lent takes one value, and comes first.
    let given_back = function.params.first().and_then(|param| lent(resolve, param.ty));
    let given_back = given_back.map(|kind| format!("(call $drop-{kind} (local.get 0))")).unwrap_or_default();
    let result = if export.results.is_empty() { "" } else { "(local.get $result)" };
    let exports = format!(
        "(func (export \"{}\") (param {}) (result {}) (local $result i32) {call} {given_back} {result})",
        function.name,
        types(&export.params),
        types(&export.results)
    )
    .replace("(result )", "");
    (imports, exports)
}

fn component() -> Vec<u8> {
    let mut resolve = Resolve::default();
    resolve.push_str("imports.wit", include_str!("../imports.wit")).unwrap();
    let package = resolve.push_str("driver.wit", include_str!("driver.wit")).unwrap();
    let world = resolve.select_world(&[package], Some("driver")).unwrap();
    let functions = resolve.worlds[world].exports.values().filter_map(|item| match item {
        WorldItem::Function(function) => Some(function),
        _ => None,
    });
    let drops = KINDS.map(|(kind, interface)| {
        format!("(import \"{interface}\" \"[resource-drop]{kind}\" (func $drop-{kind} (param i32)))")
    });
    let (imports, exports): (Vec<_>, Vec<_>) =
        functions.enumerate().map(|(index, function)| wrapper(&resolve, index, function)).unzip();
    let module = format!(
        r#"(module {} {}
          (memory (export "memory") 2)
          (global $next (mut i32) (i32.const 2048))
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (local i32)
            (local.set 4 (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
            (global.set $next (i32.add (local.get 4) (local.get 3)))
            (loop $grow
              (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
                (then (drop (memory.grow (i32.const 1))) (br $grow))))
            (local.get 4))
          {})"#,
        drops.join(" "),
        imports.join(" "),
        exports.join(" ")
    );
    let mut module = wat::parse_str(module).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}

fn limits() -> Limits {
    Limits { memory: 128 << 20, instances: 16, ..Limits::default() }
}

static LINKED: LazyLock<[InstancePre<State>; 2]> = LazyLock::new(|| {
    let engine = Engine::new(&config(&limits())).unwrap();
    let component = Component::from_binary(&engine, &component()).unwrap();
    BOTH.map(|http| linker(&engine, http).unwrap().instantiate_pre(&component).unwrap())
});

/// An instance of it, for one call.
pub(super) struct Driver {
    store: Store<State>,
    instance: Instance,
    aside: Aside,
}

impl Driver {
    /// One that reaches its robot by `egress`.
    pub(super) async fn new(http: WasiHttp, egress: &Egress) -> Self {
        let [own, wasmtime] = &*LINKED;
        let pre = if http == WasiHttp::Own { own } else { wasmtime };
        let share = Processor::new(1).tenant();
        let limits = limits();
        let state = State::new(&limits, clock::system(), egress.exit(Reach::Robot), share, None);
        let mut store = Store::new(pre.engine(), state);
        store.limiter(|state| &mut state.limits);
        store.set_fuel(u64::MAX).unwrap();
        store.set_hostcall_fuel(limits.hostcall_bytes);
        store.set_max_component_handles(limits.handles);
        let instance = pre.instantiate_async(&mut store).await.unwrap();
        let aside = Aside::default();
        store.data_mut().own_http().exchange_aside(aside.clone());
        Self { store, instance, aside }
    }

    /// Calls a function. An error is the end of the call, and of the instance.
    pub(super) async fn call(&mut self, name: &str, parameters: &[Val]) -> wasmtime::Result<Val> {
        let function = self.instance.get_func(&mut self.store, name).unwrap();
        let mut results = vec![Val::Bool(false); function.ty(&self.store).results().len()];
        self.aside.run(pin!(function.call_async(&mut self.store, parameters, &mut results))).await?;
        Ok(results.pop().unwrap_or(Val::Bool(true)))
    }

    /// Gives a handle back.
    pub(super) async fn drop(&mut self, handle: ResourceAny) -> wasmtime::Result<()> {
        handle.resource_drop_async(&mut self.store).await
    }

    pub(super) fn live_handles(&mut self) -> usize {
        self.store.data_mut().own_http().live_handles()
    }

    /// Calls a function whose answer is a thing, or a success with one.
    pub(super) async fn make(&mut self, name: &str, parameters: &[Val]) -> ResourceAny {
        let answer = self.call(name, parameters).await.unwrap();
        thing(&answer).unwrap_or_else(|| panic!("{name}: {}", said(&answer)))
    }

    /// Calls a function, and says what it answers.
    pub(super) async fn ask(&mut self, name: &str, parameters: &[Val]) -> String {
        match self.call(name, parameters).await {
            Ok(answer) => said(&answer),
            Err(_) => "trap".into(),
        }
    }
}

/// The thing in an answer.
pub(super) fn thing(answer: &Val) -> Option<ResourceAny> {
    match answer {
        Val::Resource(handle) => Some(*handle),
        Val::Result(Ok(Some(answer)) | Err(Some(answer))) | Val::Option(Some(answer)) => thing(answer),
        Val::Variant(_, Some(payload)) => thing(payload),
        _ => None,
    }
}

/// An answer as text, in which every handle is alike.
pub(super) fn said(answer: &Val) -> String {
    let of = |name: &str, payload: Option<&Val>| match payload {
        Some(payload) => format!("{name}({})", said(payload)),
        None => name.to_owned(),
    };
    match answer {
        Val::Resource(_) => "handle".into(),
        Val::Result(Ok(payload)) => of("ok", payload.as_deref()),
        Val::Result(Err(payload)) => of("err", payload.as_deref()),
        Val::Option(payload) => of(if payload.is_some() { "some" } else { "none" }, payload.as_deref()),
        Val::Variant(name, payload) => of(name, payload.as_deref()),
        Val::List(bytes) => {
            let byte = |byte: &Val| if let Val::U8(byte) = byte { *byte } else { b'?' };
            String::from_utf8(bytes.iter().map(byte).collect()).unwrap()
        }
        Val::U16(number) => number.to_string(),
        Val::U64(number) => number.to_string(),
        Val::String(text) => text.clone(),
        other => format!("{other:?}"),
    }
}

pub(super) fn text(text: &str) -> Val {
    Val::String(text.into())
}

pub(super) fn bytes(bytes: &[u8]) -> Val {
    Val::List(bytes.iter().map(|byte| Val::U8(*byte)).collect())
}

pub(super) fn some(value: Val) -> Val {
    Val::Option(Some(Box::new(value)))
}

pub(super) fn none() -> Val {
    Val::Option(None)
}

pub(super) fn case(name: &str, payload: Option<Val>) -> Val {
    Val::Variant(name.into(), payload.map(Box::new))
}

pub(super) fn entries(entries: &[(&str, &str)]) -> Val {
    let entry = |(name, value): &(&str, &str)| Val::Tuple(vec![text(name), bytes(value.as_bytes())]);
    Val::List(entries.iter().map(entry).collect())
}

/// A way out to this robot alone.
pub(super) fn egress(url: &str) -> Egress {
    let settings = dingtalk_binding::settings::Settings::parse([("id", "x"), ("url", url)]).unwrap();
    Egress::new("x", &settings, &crate::egress::Proxies::none()).unwrap()
}
