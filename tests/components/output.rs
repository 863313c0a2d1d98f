//! dingtalk-output.wasm: the binding for who only sends. Nothing of DingTalk's is left to link.

use dingtalk_binding::secret::Secret;
use dingtalk_components::{BINDING, OUTPUT};
use dingtalk_host::simulator::robot::RobotConfig;
use dingtalk_host::simulator::{Config, Simulator};
use wasmtime::component::Val;
use wit_component::DecodedWasm;

use crate::plain::{Plain, pairs, request};
use crate::sending::Sending;

const SECRET: &str = "SECb90923e19e58b466481e9e7b7a5b4f108a4531abde590ad3967fb29f0eae5c68";

/// Whether nothing of `interface` has to be there for a component that imports it.
fn is_of_types(interface: &wit_parser::Interface, resolve: &wit_parser::Resolve) -> bool {
    let is_resource = |id: &wit_parser::TypeId| matches!(resolve.types[*id].kind, wit_parser::TypeDefKind::Resource);
    interface.functions.is_empty() && !interface.types.values().any(is_resource)
}

/// The names of a component's imports and of its exports, without those that are but types.
fn functions(component: &[u8]) -> [Vec<String>; 2] {
    let DecodedWasm::Component(resolve, world) = wit_component::decode(component).unwrap() else {
        panic!("not a component")
    };
    let world = &resolve.worlds[world];
    [&world.imports, &world.exports].map(|items| {
        let with_functions = items.iter().filter(|(_, item)| match item {
            wit_parser::WorldItem::Interface { id, .. } => !is_of_types(&resolve.interfaces[*id], &resolve),
            wit_parser::WorldItem::Function(_) => true,
            wit_parser::WorldItem::Type { .. } => false,
        });
        let mut names: Vec<_> = with_functions.map(|(key, _)| resolve.name_world_key(key)).collect();
        names.sort();
        names
    })
}

#[test]
fn its_imports_are_wasi_alone_and_its_exports_the_binding_s() {
    let [imports, exports] = functions(OUTPUT);
    let wasi = [
        "wasi:clocks/wall-clock@0.2.12",
        "wasi:http/outgoing-handler@0.2.12",
        "wasi:http/types@0.2.12",
        "wasi:io/error@0.2.12",
        "wasi:io/poll@0.2.12",
        "wasi:io/streams@0.2.12",
    ];
    assert_eq!(imports, wasi);
    let [binding_imports, binding_exports] = functions(BINDING);
    assert_eq!(exports, binding_exports);
    let mut left = binding_imports;
    left.retain(|name| !imports.contains(name));
    assert_eq!(left, ["dingtalk:binding/handler@0.2.0"]);
}

#[test]
fn it_holds_the_binding_that_our_host_runs() {
    assert_eq!(BINDING, dingtalk_component::COMPONENT);
}

/// A simulated robot that wants signatures, beside the test.
struct Robot {
    runtime: tokio::runtime::Runtime,
    simulator: Option<Simulator>,
}

impl Robot {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let robot = RobotConfig { secret: Some(Secret::new(SECRET)), ..RobotConfig::default() };
        let simulator = runtime.block_on(Simulator::start(Config { robot, ..Config::default() })).unwrap();
        Self { runtime, simulator: Some(simulator) }
    }

    /// Properties of a binding for it.
    fn properties(&self, secret: &str) -> Val {
        pairs(&[("id", "x"), ("url", &self.simulator.as_ref().unwrap().url()), ("secret", secret)])
    }

    /// What the group saw.
    fn messages(&self) -> Vec<String> {
        self.simulator.as_ref().unwrap().messages().iter().map(|message| format!("{message:?}")).collect()
    }
}

impl Drop for Robot {
    fn drop(&mut self) {
        if let Some(simulator) = self.simulator.take() {
            self.runtime.block_on(simulator.stop());
        }
    }
}

#[test]
fn a_host_that_links_wasi_alone_sends_a_signed_message() {
    let robot = Robot::start();
    let mut plain = Plain::new(OUTPUT, Sending, |_| {});
    for (secret, accepted) in [(SECRET, true), ("SECanother", false)] {
        let ready = plain.call("init", "init", &[robot.properties(secret)]);
        assert!(matches!(ready, Some(Val::Result(Ok(_)))), "{ready:?}");
        let answer = format!("{:?}", plain.call("invoke", "invoke", &[request("create", "你好".as_bytes())]));
        assert_eq!(answer.contains("\"statusCode\"") && answer.contains("Ok"), accepted, "{answer}");
        assert_eq!(answer.contains("signature"), !accepted, "{answer}");
    }
    let messages = robot.messages();
    assert!(messages.len() == 1 && messages[0].contains("你好"), "{messages:?}");
}

#[test]
fn one_call_configures_and_sends() {
    let robot = Robot::start();
    // Each in a new instance: nothing is there before.
    let call = |properties: Val, operation: &str, data: &str| {
        let mut plain = Plain::new(OUTPUT, Sending, |_| {});
        let result = plain.call("call", "call", &[properties, request(operation, data.as_bytes())]);
        match result {
            Some(Val::Result(Ok(value))) => Ok(format!("{value:?}")),
            Some(Val::Result(Err(Some(error)))) => match *error {
                Val::Variant(case, value) => Err((case, format!("{value:?}"))),
                error => panic!("{error:?}"),
            },
            result => panic!("{result:?}"),
        }
    };
    let sent = call(robot.properties(SECRET), "create", "one call").unwrap();
    assert!(sent.contains("statusCode"), "{sent}");
    let (case, error) = call(pairs(&[("id", "x")]), "create", "without a url").unwrap_err();
    assert!(case == "init" && error.contains("url"), "{case} {error}");
    let (case, error) = call(robot.properties("SECanother"), "create", "with a wrong secret").unwrap_err();
    assert!(case == "invoke" && error.contains("signature") && error.contains("not-sent"), "{case} {error}");
    let (case, error) = call(robot.properties(SECRET), "delete", "").unwrap_err();
    assert!(case == "invoke" && error.contains("unsupported-operation"), "{case} {error}");
    let messages = robot.messages();
    assert!(messages.len() == 1 && messages[0].contains("one call"), "{messages:?}");
}

#[test]
fn get_finds_nobody_who_reads() {
    let mut plain = Plain::new(OUTPUT, Sending, |_| {});
    let properties = pairs(&[("id", "alerts"), ("url", "http://127.0.0.1:1/")]);
    plain.call("init", "init", &[properties]);
    let not_reading = |plain: &mut Plain<Sending>| {
        let answer = format!("{:?}", plain.call("invoke", "invoke", &[request("get", b"anything")]));
        assert!(answer.contains("not-reading") && answer.contains("not-sent") && answer.contains("alerts"), "{answer}");
    };
    not_reading(&mut plain);
    // From here on the handler inside is asked.
    let reading = plain.call("read", "read", &[]);
    assert!(matches!(reading, Some(Val::Result(Ok(_)))), "{reading:?}");
    not_reading(&mut plain);
}
