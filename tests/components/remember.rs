//! dingtalk-gateway-remember.wasm: what came before is known, although no instance lives for two requests.

use serde_json::json;

use crate::both::Server as _;
use crate::runtime::Gateway;
use crate::support::app::{Act, App};
use crate::support::receiving::{
    EMPTY, GET, PONG, REFUSED, assert_answer, assert_later, post, signed, talkative, text,
};
use crate::support::{Reply, Robot, SECRET, send};

struct Setup {
    gateway: Gateway,
    app: App,
    _robot: Robot,
}

fn start(more: &[(&str, &str)]) -> Setup {
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
    let gateway = Gateway::remembering(&[&team, more].concat());
    Setup { gateway, app, _robot: robot }
}

impl Setup {
    fn callback(&self, name: &str, body: &str) -> Reply {
        post(self.gateway.address(), name, &signed(SECRET), body.as_bytes())
    }
}

#[test]
fn a_callback_that_comes_again_gets_the_same_answer_without_a_second_delivery() {
    let setup = start(&[]);
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
    assert_eq!(setup.gateway.keys().lock().unwrap().len(), 3);
}

#[test]
fn another_message_under_a_known_identifier_is_refused() {
    let setup = start(&[]);
    assert_answer(&setup.callback("team", &text("m1")), EMPTY);
    let swapped = json!({"msgtype": "text", "text": {"content": "evil"}, "msgId": "m1"}).to_string();
    let reply = setup.callback("team", &swapped);
    assert_eq!((reply.status, reply.body.as_str()), (403, REFUSED));
    assert_eq!(setup.app.events().len(), 1);
}

#[test]
fn what_was_not_taken_is_delivered_again() {
    let setup = start(&[]);
    setup.app.answer(Act::Answer(500, String::new()));
    assert_later(&setup.callback("team", &text("m1")));
    setup.app.answer(Act::ok(PONG));
    assert_answer(&setup.callback("team", &text("m1")), PONG);
    assert_eq!(setup.app.events().len(), 2);
}

#[test]
fn what_has_no_identifier_is_delivered_each_time() {
    let setup = start(&[]);
    setup.app.answer(Act::ok(PONG));
    for _ in 0..2 {
        assert_answer(&setup.callback("team", "{}"), PONG);
        let reply = send(setup.gateway.address(), "POST", "/v1.0/bindings/team", &[], GET.as_bytes());
        assert_answer(&reply, PONG);
    }
    assert_eq!(setup.app.events().len(), 4);
    assert!(setup.gateway.keys().lock().unwrap().is_empty());
}

#[test]
fn a_store_that_is_not_there_is_named_to_whoever_runs_it_and_nothing_is_lost() {
    let setup = start(&[("DINGTALK_STORE", "nowhere")]);
    assert_later(&setup.callback("team", &text("m1")));
    assert_eq!(setup.app.events().len(), 0);
    let log = setup.gateway.log();
    assert!(log.contains("the key-value store cannot be opened") && log.contains("DINGTALK_STORE"), "{log}");
}
