//! Only what DingTalk sent to this robot is let in, and nobody else learns why it was not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dingtalk_binding::error::{HandlerError, ReceiveError, Refusal};
use dingtalk_binding::secret::Secret;
use dingtalk_binding::settings::Settings;
use dingtalk_component::COMPONENT;
use dingtalk_host::egress::{Egress, Proxies};
use dingtalk_host::event::BoxFuture;
use dingtalk_host::sandbox::{CallError, Callback, Handler, Limits, Sandbox};
use dingtalk_host::simulator::callback::Forgery;
use dingtalk_host::simulator::conversation::Say;
use dingtalk_host::simulator::robot::RobotConfig;

use crate::support::app::{Act, App};
use crate::support::receiving::{
    EMPTY, PONG, REFUSED, Setup, assert_answer, callback, post, robot_with, signed, start_with, text, until,
};
use crate::support::witness::{now, sign};
use crate::support::{Host, PATIENCE, Resources, Robot, SECRET, TOKEN, component, limits, send};

/// github.com/eryajf/chatgpt-dingtalk 3766c24, public/tools_test.go.
const VECTOR: (u64, &str, &str) =
    (1_684_493_546_276, "client-secret-for-test", "nwBJQmaBLv9+5/sSS/66jcFc1/kGY5wo38L88LOGfRU=");

fn vector() -> Vec<(String, String)> {
    let headers = [("content-type", "application/json".into()), ("timestamp", VECTOR.0.to_string())];
    let mut headers = headers.map(|(name, value)| (name.to_owned(), value)).to_vec();
    headers.push(("sign".into(), VECTOR.2.into()));
    headers
}

#[test]
fn a_signature_that_was_published_years_ago_is_refused_today() {
    assert_eq!(sign(VECTOR.1, VECTOR.0), VECTOR.2);
    for skew in ["1h", "24h"] {
        let properties = [("appSecret", VECTOR.1), ("callbackMaxSkew", skew)];
        let Setup { host, app, .. } = start_with(&properties, &[], &[]);
        let reply = post(host.address(), "team", &vector(), text("m").as_bytes());
        assert_eq!((reply.status, reply.body.as_str()), (403, REFUSED), "{skew}");
        host.wait_for_log("its timestamp is too far from this machine's time");
        assert_answer(&post(host.address(), "team", &signed(VECTOR.1), text("m").as_bytes()), EMPTY);
        assert_eq!(app.events().len(), 1);
    }
    let longer = [("id", "x"), ("url", "https://h"), ("callbackMaxSkew", "24h0m0.001s")];
    assert!(Settings::parse(longer).unwrap_err().to_string().contains("callbackMaxSkew"));
}

/// Keeps what a binding hands on.
#[derive(Default)]
struct Kept(Mutex<Vec<Vec<u8>>>);

impl Handler for Kept {
    fn handle(&self, data: Vec<u8>, _: Vec<(String, String)>) -> BoxFuture<'_, Result<Option<Vec<u8>>, HandlerError>> {
        self.0.lock().unwrap().push(data);
        Box::pin(async { Ok(Some(PONG.into())) })
    }
}

#[test]
fn the_component_accepts_the_published_signature_for_an_hour_to_the_millisecond() {
    const HOUR: u64 = 3_600_000;
    let time = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&time);
    let sandbox =
        Sandbox::new(COMPONENT, Limits { instances: 2, ..limits() }, Arc::new(move || clock.load(Ordering::SeqCst)))
            .unwrap();
    let properties = [("id", "x"), ("url", "http://127.0.0.1:1"), ("secret", "another"), ("appSecret", VECTOR.1)];
    let settings = Settings::parse(properties).unwrap();
    let owned = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let tenant = sandbox.tenant(owned, Egress::new("x", &settings, &Proxies::none()).unwrap(), settings.timeout);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let kept = Arc::new(Kept::default());
    let receive = |now: u64| {
        time.store(now, Ordering::SeqCst);
        let headers = vector().into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
        let callback = Callback { headers, body: b"{\"msgId\": 1.0}".to_vec(), arrived: sandbox.arrival() };
        let reader: Arc<dyn Handler> = Arc::clone(&kept) as _;
        runtime.block_on(sandbox.receive(&tenant, callback, Some(reader), PATIENCE))
    };
    for now in [VECTOR.0, VECTOR.0 + HOUR, VECTOR.0 - HOUR] {
        let reply = receive(now).unwrap();
        assert_eq!(
            (reply.status, reply.content_type.as_str(), &*reply.body),
            (200, "application/json", PONG.as_bytes())
        );
    }
    assert_eq!(*kept.0.lock().unwrap(), vec![b"{\"msgId\": 1.0}".to_vec(); 3]);
    for now in [VECTOR.0 + HOUR + 1, VECTOR.0 - HOUR - 1, 0] {
        let refused = receive(now).unwrap_err();
        assert!(matches!(refused, CallError::Binding(ReceiveError::Refused(Refusal::Expired))), "{now}: {refused:?}");
    }
    assert_eq!(kept.0.lock().unwrap().len(), 3, "what was refused was handed on");
}

#[test]
fn forgeries_are_refused_as_documented_and_the_application_sees_none() {
    let known = [("robotCode", "simulated-robot-code"), ("chatbotCorpId", "simulated-corporation")];
    let Setup { host, app, robot } = start_with(&known, &[], &[]);
    app.answer(Act::ok(PONG));
    let statuses = |say: Say| robot.say(say).attempts.into_iter().map(|attempt| attempt.status).collect::<Vec<_>>();
    assert_eq!(statuses(Say::text("genuine")), [Some(200)], "{}", host.log());
    for forgery in Forgery::ALL {
        let status = match forgery {
            // Rightly signed, see below.
            Forgery::Replay | Forgery::SwappedBody => continue,
            Forgery::Unsigned => 401,
            Forgery::OversizedBody => 413,
            Forgery::TruncatedBody | Forgery::NotJson => 400,
            Forgery::WrongContentType => 415,
            _ => 403,
        };
        let said = robot.say(Say::text("forged").forged(forgery));
        assert_eq!(said.attempts.len(), 1, "{forgery} {said:?}");
        assert_eq!(said.attempts[0].status, Some(status), "{forgery} {said:?}");
        if matches!(status, 401 | 403) {
            assert_eq!(said.attempts[0].error.as_deref(), Some(&*format!("refused: {REFUSED}")), "{forgery}");
        }
    }
    assert_eq!(app.events().len(), 1);
    // The edges of the window, with some way to go until the clock is read.
    for forgery in [Forgery::OldTimestamp, Forgery::FutureTimestamp] {
        let inside = Say { skew_ms: 3_600_000 - 120_000, ..Say::text("late").forged(forgery) };
        assert_eq!(statuses(inside), [Some(200)], "{forgery}");
    }
    // The callback that DingTalk sent itself: the reply again, without a delivery.
    let before = app.events().len();
    assert_eq!(before, 3);
    let said = robot.say(Say::text("x").forged(Forgery::Replay));
    assert_eq!((said.attempts[0].status, said.reply), (Some(200), Some(serde_json::from_str(PONG).unwrap())));
    assert_eq!(app.events().len(), before);
    // A message that nobody said. Only where it could have been signed in the same millisecond it is taken for one.
    let swapped = || robot.say(Say::text("swapped").forged(Forgery::SwappedBody)).attempts.remove(0);
    until("the end of the signature's first moment", || swapped().status == Some(403));
    let before = app.events().len();
    let refused = swapped();
    assert_eq!((refused.status, refused.error), (Some(403), Some(format!("refused: {REFUSED}"))));
    assert_eq!(statuses(Say::text("x").forged(Forgery::Replay)), [Some(200)]);
    assert_eq!(app.events().len(), before);
}

#[test]
fn no_answer_tells_which_part_of_a_proof_was_wrong() {
    let Setup { host, app, .. } = start_with(&[("robotCode", "r"), ("chatbotCorpId", "c")], &[], &[]);
    let (now, body) = (now(), r#"{"robotCode":"r","chatbotCorpId":"c"}"#);
    let (time, right) = (now.to_string(), sign(SECRET, now));
    let wrong = sign("SECanother", now);
    let old = now - 3_600_001;
    let (old_time, old_sign) = (old.to_string(), sign(SECRET, old));
    let unpadded = right.trim_end_matches('=');
    let encoded = right.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let spaced = format!("{time} 1");
    let hexadecimal = format!("{now:#x}");
    let mut answers = Vec::new();
    for (status, headers, body) in [
        (401, &[][..], body),
        (401, &[("timestamp", &*time)], body),
        (401, &[("sign", &*right)], body),
        (401, &[("token", TOKEN)], body),
        (401, &[("x-timestamp", &*time), ("x-sign", &*right)], body),
        (403, &[("timestamp", ""), ("sign", "")], body),
        (403, &[("timestamp", &*time), ("sign", "")], body),
        (403, &[("timestamp", &*time), ("sign", &*wrong)], body),
        (403, &[("timestamp", &*time), ("sign", unpadded)], body),
        (403, &[("timestamp", &*time), ("sign", &*encoded)], body),
        (403, &[("timestamp", &*time), ("sign", "你")], body),
        (403, &[("timestamp", &*old_time), ("sign", &*old_sign)], body),
        (403, &[("timestamp", &*old_time), ("sign", "x")], body),
        (403, &[("timestamp", "now"), ("sign", &*right)], body),
        (403, &[("timestamp", &*spaced), ("sign", &*right)], body),
        (403, &[("timestamp", &*hexadecimal), ("sign", &*right)], body),
        (403, &[("timestamp", "99999999999999999999999"), ("sign", &*right)], body),
        // Two of a kind, whichever of them is right, and however they are written.
        (403, &[("timestamp", &*time), ("sign", &*right), ("timestamp", &*time)], body),
        (403, &[("timestamp", &*time), ("sign", &*right), ("TIMESTAMP", &*old_time)], body),
        (403, &[("Timestamp", &*old_time), ("sign", &*right), ("timestamp", &*time)], body),
        (403, &[("timestamp", &*time), ("sign", &*right), ("Sign", &*wrong)], body),
        (403, &[("timestamp", &*time), ("SIGN", ""), ("sign", &*right)], body),
        (403, &[("timestamp", &*time), ("sign", &*right)], "{}"),
        (403, &[("timestamp", &*time), ("sign", &*right)], r#"{"robotCode":"r","chatbotCorpId":"C"}"#),
        (403, &[("timestamp", &*time), ("sign", &*right)], r#"{"robotCode":"r2","chatbotCorpId":"c"}"#),
        // Before the sender is known, nobody looks at the body.
        (401, &[], "no JSON"),
        (403, &[("timestamp", &*time), ("sign", &*wrong)], "no JSON"),
    ] {
        let headers = [&[("content-type", "application/json")], headers].concat();
        let reply = send(host.address(), "POST", "/v1.0/bindings/team/callback", &headers, body.as_bytes());
        assert_eq!((reply.status, reply.body.as_str()), (status, REFUSED), "{headers:?}");
        let mut names: Vec<_> =
            reply.headers.into_iter().filter(|(name, _)| !name.eq_ignore_ascii_case("date")).collect();
        names.sort();
        answers.push(names);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "a header differs");
    // Right in everything: it is not the rest that was refused.
    let headers = [("timestamp", &*time), ("content-type", "Application/JSON"), ("SIGN", &*right)];
    let reply = send(host.address(), "POST", "/v1.0/bindings/team/callback", &headers, body.as_bytes());
    assert_answer(&reply, EMPTY);
    assert_eq!(app.events().len(), 1);
}

#[test]
fn a_binding_can_be_for_one_robot_of_one_organisation() {
    let Setup { host, app, robot } = start_with(&[("robotCode", "r1"), ("chatbotCorpId", "c1")], &[], &[]);
    for body in [
        r#"{"robotCode":"r2","chatbotCorpId":"c1"}"#,
        r#"{"robotCode":"r1","chatbotCorpId":"c2"}"#,
        r#"{"robotCode":"r1"}"#,
        r#"{"x":{"robotCode":"r1","chatbotCorpId":"c1"}}"#,
    ] {
        let reply = callback(&host, body);
        assert_eq!((reply.status, reply.body.as_str()), (403, REFUSED), "{body}");
    }
    // The checker and the application could read different ones of two.
    let twice = callback(&host, r#"{"robotCode":"r1","chatbotCorpId":"c1","robot\u0043ode":"r2"}"#);
    assert_eq!(twice.status, 400, "{twice:?}");
    assert_eq!(robot.say(Say::text("for somebody else")).attempts.last().unwrap().status, Some(403));
    assert_eq!(app.events().len(), 0);
    assert_answer(&callback(&host, r#"{"robotCode":"r1","chatbotCorpId":"c1"}"#), EMPTY);
    assert_eq!(app.events().len(), 1);
}

#[test]
fn the_older_robots_prove_themselves_with_a_token() {
    let token = "0utg01ng-t0k3n";
    let app = App::start();
    let robot = robot_with(RobotConfig {
        outgoing_token: Some(Secret::new(token)),
        robot_code: String::new(),
        chatbot_corp_id: String::new(),
        ..Robot::config()
    });
    let url = robot.url();
    let of = |name: &str, more: &[(&str, &str)]| component(name, &[&[("id", name), ("url", &*url)], more].concat());
    let resources = Resources::new()
        .with("a.yaml", &of("team", &[("outgoingToken", token)]))
        .with("b.yaml", &of("keyless", &[]))
        .with("c.yaml", &of("both", &[("outgoingToken", token), ("secret", SECRET)]));
    let host = Host::serve_with(&resources, &["--app-port", &app.port(), "--callback-timeout", "60s"], &[]);
    robot.set_callback_url(&host.callback_url("team"));
    app.answer(Act::ok(PONG));
    let said = robot.say(Say::text("hello"));
    assert!(said.shown.is_some(), "{said:?}\n{}", host.log());
    assert_eq!(app.wait_for_events(1).header("token"), Vec::<&str>::new());
    for (forgery, status) in [(Forgery::WrongKey, 403), (Forgery::Unsigned, 401), (Forgery::Replay, 200)] {
        let said = robot.say(Say::text("forged").forged(forgery));
        assert_eq!(said.attempts.last().unwrap().status, Some(status), "{forgery}");
    }
    let with = |name: &str, headers: &[(&str, &str)]| {
        let headers = [&[("content-type", "application/json")], headers].concat();
        send(host.address(), "POST", &format!("/v1.0/bindings/{name}/callback"), &headers, text("m").as_bytes())
    };
    let (time, right) = (now().to_string(), sign(SECRET, now()));
    let signature = [("timestamp", &*time), ("sign", &*right)];
    for (name, headers, status) in [
        ("team", &[("token", token), ("TOKEN", token)][..], 403),
        ("team", &[("token", "0UTG01NG-T0K3N")], 403),
        ("team", &signature, 401),
        // A token does not stand in for a signature, and nothing for a key that is not there.
        ("both", &[("token", token)], 401),
        ("keyless", &[("token", token)], 403),
        ("keyless", &[("token", "")], 403),
        ("keyless", &signature, 403),
        ("keyless", &[], 403),
    ] {
        let reply = with(name, headers);
        assert_eq!((reply.status, reply.body.as_str()), (status, REFUSED), "{name} {headers:?}");
    }
    host.wait_for_log("the binding cannot verify callbacks; set the property");
    assert_eq!(app.events().len(), 1);
    assert_answer(&with("team", &[("Token", token)]), PONG);
}
