//! dingtalk-gateway-p3.wasm: the same gateway for WASI 0.3, with all requests in one instance.

use std::thread;

use crate::both::Server;
use crate::gateways::tests;
use crate::runtime::{CUT, Gateway};
use crate::support::app::{Act, App};
use crate::support::receiving::{PONG, assert_answer, post, signed, talkative, text};
use crate::support::{Robot, SECRET, send};

tests!(Gateway);

const CREATE: &str = r#"{"operation":"create","data":{"message":"Hi"}}"#;

#[test]
fn robots_whose_requests_overlap_keep_their_secrets_apart() {
    let (robot, app) = (talkative(), App::start());
    let (url, app_url) = (robot.url(), format!("http://{}", app.address()));
    let gateway = <Gateway as crate::gateways::Gateway>::start(&[
        ("DINGTALK_BINDINGS", "right,wrong"),
        ("DINGTALK_RIGHT__URL", &url),
        ("DINGTALK_RIGHT__SECRET", SECRET),
        ("DINGTALK_WRONG__URL", &url),
        ("DINGTALK_WRONG__SECRET", "SECanother"),
        ("DINGTALK_APP_URL", &app_url),
    ]);
    let (gateway, rounds) = (&gateway, 10);
    thread::scope(|scope| {
        for _ in 0..8 {
            for (name, status, check) in [("right", 200, None), ("wrong", 500, Some("signature"))] {
                scope.spawn(move || {
                    for _ in 0..rounds {
                        let reply = gateway.post(name, CREATE);
                        assert_eq!((reply.status, reply.metadata("check")), (status, check), "{name}: {reply:?}");
                        // Another one's signature is none.
                        let other = if name == "right" { "SECanother" } else { SECRET };
                        let forged = post(gateway.address(), name, &signed(other), text("m").as_bytes());
                        assert_eq!(forged.status, 403, "{name}: {forged:?}");
                    }
                });
            }
        }
    });
    assert_eq!(robot.stats().accepted, 8 * rounds);
}

#[test]
fn messages_that_wait_for_the_application_hold_up_nothing_else() {
    let (robot, app) = (talkative(), App::start());
    let gateway = &<Gateway as Server>::with_application(&robot, &[], app.address());
    let gate = app.answer_behind(Act::ok(PONG));
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..20)
            .map(|number| {
                let message = text(&format!("m{number}"));
                scope.spawn(move || post(gateway.address(), "team", &signed(SECRET), message.as_bytes()))
            })
            .collect();
        app.wait_for_events(20);
        assert_eq!(gateway.post("team", CREATE).status, 200);
        gate.open();
        for waiting in waiting {
            assert_answer(&waiting.join().unwrap(), PONG);
        }
    });
}

#[test]
fn an_answer_that_ends_before_its_length_is_none() {
    let (robot, app) = (talkative(), App::start());
    app.answer(Act::ok(PONG));
    let (url, app_url) = (robot.url(), format!("http://{}{CUT}", app.address()));
    let gateway = <Gateway as crate::gateways::Gateway>::start(&[
        ("DINGTALK_BINDINGS", "team"),
        ("DINGTALK_TEAM__URL", &url),
        ("DINGTALK_TEAM__SECRET", SECRET),
        ("DINGTALK_APP_URL", &app_url),
    ]);
    let reply = post(gateway.address(), "team", &signed(SECRET), text("m").as_bytes());
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(gateway.log().contains("broke off"), "{}", gateway.log());
}

#[test]
fn without_a_name_there_is_no_telling_a_page_from_a_program_but_by_the_token() {
    let robot = Robot::start();
    let url = robot.url();
    let team = [("DINGTALK_BINDINGS", "team"), ("DINGTALK_TEAM__URL", &*url), ("DINGTALK_TEAM__SECRET", SECRET)];
    let create = |more: &[(&str, &str)], headers: &[(&str, &str)]| {
        let gateway = Gateway::nameless(&[&team, more].concat());
        send(gateway.address(), "POST", "/v1.0/bindings/team", headers, CREATE.as_bytes())
    };
    let refused = create(&[], &[]);
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(refused.body.contains("DAPR_API_TOKEN") && refused.body.contains("DINGTALK_ALLOWED_HOSTS"), "{refused:?}");
    assert_eq!(robot.stats().accepted, 0);
    assert_eq!(create(&[("DINGTALK_ALLOWED_HOSTS", "*")], &[]).status, 200);
    assert_eq!(create(&[("DAPR_API_TOKEN", "t")], &[]).status, 401);
    assert_eq!(create(&[("DAPR_API_TOKEN", "t")], &[("dapr-api-token", "t")]).status, 200);
    // What proves itself, or tells nothing, needs no name.
    let gateway = Gateway::nameless(&team);
    assert_eq!(send(gateway.address(), "GET", "/v1.0/healthz", &[], b"").status, 204);
    assert_eq!(post(gateway.address(), "team", &signed("SECanother"), b"{}").status, 403);
}
