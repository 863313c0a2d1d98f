//! dingtalk-gateway-remember.wasm, and the same for Spin: what came before is known, although no instance lives for two
//! requests.

use dingtalk_components::{GATEWAY, GATEWAY_REMEMBER, GATEWAY_REMEMBER_SPIN};
use serde_json::json;

use crate::both::Server as _;
use crate::both::callbacks::get_takes_no_message_s_place;
use crate::output::functions;
use crate::runtime::{FAULT, Fault, Gateway, KeyValue};
use crate::support::app::{Act, App};
use crate::support::receiving::{
    EMPTY, GET, PONG, REFUSED, assert_answer, assert_later, post, signed, talkative, text,
};
use crate::support::{Reply, Robot, SECRET, send};

/// Every test, with each version of the store.
macro_rules! tests {
    ($($name:ident)*) => {
        tests!(wasmcloud, WasmCloud: $($name)*);
        tests!(spin, Spin: $($name)*);
    };
    ($module:ident, $store:ident: $($name:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::$name(super::KeyValue::$store);
                }
            )*
        }
    };
}

tests! {
    a_callback_that_comes_again_gets_the_same_answer_without_a_second_delivery
    another_message_under_a_known_identifier_is_refused
    what_was_not_taken_is_delivered_again
    what_has_no_identifier_is_delivered_each_time
    what_a_caller_of_get_says_is_no_message
    a_message_that_cannot_be_looked_up_is_not_taken
    what_cannot_be_kept_is_taken_and_may_be_delivered_again
    a_store_that_is_not_there_is_named_to_whoever_runs_it_and_nothing_is_lost
}

struct Setup {
    gateway: Gateway,
    app: App,
    _robot: Robot,
}

fn start(store: KeyValue, more: &[(&str, &str)]) -> Setup {
    let (robot, app) = (talkative(), App::start());
    let (url, app_url) = (robot.url(), format!("http://{}", app.address()));
    let team = [
        ("DINGTALK_BINDINGS", "team,other"),
        ("DINGTALK_TEAM__URL", &*url),
        ("DINGTALK_TEAM__SECRET", SECRET),
        ("DINGTALK_OTHER__URL", &*url),
        ("DINGTALK_OTHER__SECRET", SECRET),
        ("DINGTALK_APP_URL", &*app_url),
    ];
    let gateway = Gateway::remembering(store, &[&team, more].concat());
    Setup { gateway, app, _robot: robot }
}

impl Setup {
    fn callback(&self, name: &str, body: &str) -> Reply {
        post(self.gateway.address(), name, &signed(SECRET), body.as_bytes())
    }
}

fn a_callback_that_comes_again_gets_the_same_answer_without_a_second_delivery(store: KeyValue) {
    let setup = start(store, &[]);
    setup.app.answer(Act::ok(PONG));
    for _ in 0..3 {
        assert_answer(&setup.callback("team", &text("m1")), PONG);
    }
    assert_eq!(setup.app.events().len(), 1);
    // Nothing to say is remembered, too; another binding has a memory of its own.
    setup.app.answer(Act::ok(""));
    for _ in 0..2 {
        assert_answer(&setup.callback("team", &text("m2")), EMPTY);
    }
    assert_answer(&setup.callback("other", &text("m1")), EMPTY);
    assert_eq!(setup.app.events().len(), 3);
    assert_eq!(setup.gateway.keys().lock().unwrap().entries.len(), 3);
}

fn another_message_under_a_known_identifier_is_refused(store: KeyValue) {
    let setup = start(store, &[]);
    assert_answer(&setup.callback("team", &text("m1")), EMPTY);
    let swapped = json!({"msgtype": "text", "text": {"content": "evil"}, "msgId": "m1"}).to_string();
    let reply = setup.callback("team", &swapped);
    assert_eq!((reply.status, reply.body.as_str()), (403, REFUSED));
    assert_eq!(setup.app.events().len(), 1);
}

fn what_was_not_taken_is_delivered_again(store: KeyValue) {
    let setup = start(store, &[]);
    setup.app.answer(Act::Answer(500, String::new()));
    assert_later(&setup.callback("team", &text("m1")));
    setup.app.answer(Act::ok(PONG));
    assert_answer(&setup.callback("team", &text("m1")), PONG);
    assert_eq!(setup.app.events().len(), 2);
}

fn what_has_no_identifier_is_delivered_each_time(store: KeyValue) {
    let setup = start(store, &[]);
    setup.app.answer(Act::ok(PONG));
    for _ in 0..2 {
        assert_answer(&setup.callback("team", "{}"), PONG);
        let reply = send(setup.gateway.address(), "POST", "/v1.0/bindings/team", &[], GET.as_bytes());
        assert_answer(&reply, PONG);
    }
    assert_eq!(setup.app.events().len(), 4);
    assert!(setup.gateway.keys().lock().unwrap().entries.is_empty());
}

fn what_a_caller_of_get_says_is_no_message(store: KeyValue) {
    let setup = start(store, &[]);
    get_takes_no_message_s_place(&setup.gateway, &setup.app);
    assert_eq!(setup.gateway.keys().lock().unwrap().entries.len(), 1);
    assert_eq!(setup.callback("team", &text("m1")).status, 200);
    assert_eq!(setup.app.events().len(), 5, "the message was forgotten");
}

fn a_message_that_cannot_be_looked_up_is_not_taken(store: KeyValue) {
    let setup = start(store, &[]);
    assert_answer(&setup.callback("team", &text("m1")), EMPTY);
    setup.gateway.keys().lock().unwrap().fault = Some(Fault::Read);
    for id in ["m1", "m2"] {
        assert_later(&setup.callback("team", &text(id)));
    }
    assert_eq!(setup.app.events().len(), 1);
    let log = setup.gateway.log();
    assert!(log.contains("the key-value store cannot be read: see the runtime's log"), "{log}");
    assert!(!log.contains(FAULT), "{log}");
    // Nothing is lost.
    setup.gateway.keys().lock().unwrap().fault = None;
    for _ in 0..2 {
        assert_answer(&setup.callback("team", &text("m2")), EMPTY);
    }
    assert_eq!(setup.app.events().len(), 2);
}

fn what_cannot_be_kept_is_taken_and_may_be_delivered_again(store: KeyValue) {
    let setup = start(store, &[]);
    setup.app.answer(Act::ok(PONG));
    setup.gateway.keys().lock().unwrap().fault = Some(Fault::Write);
    for _ in 0..2 {
        assert_answer(&setup.callback("team", &text("m1")), PONG);
    }
    assert_eq!(setup.app.events().len(), 2);
    assert!(setup.gateway.keys().lock().unwrap().entries.is_empty());
}

fn a_store_that_is_not_there_is_named_to_whoever_runs_it_and_nothing_is_lost(store: KeyValue) {
    let setup = start(store, &[("DINGTALK_STORE", "nowhere")]);
    assert_later(&setup.callback("team", &text("m1")));
    assert_eq!(setup.app.events().len(), 0);
    let log = setup.gateway.log();
    // Spin tells nobody which stores there are.
    let why = match store {
        KeyValue::WasmCloud => "there is none of this name",
        KeyValue::Spin => "this component may not use it",
    };
    assert!(log.contains(&format!("the key-value store cannot be opened: {why}; DINGTALK_STORE names it")), "{log}");
}

/// Each links with its own runtime alone.
#[test]
fn their_imports_are_those_of_the_gateway_and_one_store() {
    let stores = ["wasi:keyvalue/store@0.2.0-draft", "wasi:keyvalue/store@0.2.0-draft2"];
    for (component, store) in [GATEWAY_REMEMBER, GATEWAY_REMEMBER_SPIN].into_iter().zip(stores) {
        let [mut imports, exports] = functions(component);
        assert_eq!(imports.pop().unwrap(), store);
        assert_eq!([imports, exports], functions(GATEWAY));
    }
}
