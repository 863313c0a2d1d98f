//! What a gateway must do, whatever version of WASI it is for: the tests of this file run against each, in a runtime
//! that is not ours.

pub mod way_out;

use std::net::SocketAddr;

use serde_json::json;

use crate::both::Server;
use crate::support::app::{Act, App};
use crate::support::receiving::{PONG, assert_answer, post, signed, talkative, text};
use crate::support::{Reply, Robot, SECRET, TOKEN, send};

/// The gateway in a runtime; ends with the value.
pub trait Gateway: Sized {
    /// With these environment variables.
    fn start(environment: &[(&str, &str)]) -> Self;

    /// Where it is.
    fn reached(&self) -> SocketAddr;

    /// What it has written to its standard error.
    fn written(&self) -> String;
}

impl<G: Gateway> Server for G {
    const APP_ID: &str = "dingtalk-gateway";

    fn serve(robot: &Robot, token: Option<&str>) -> Self {
        let url = robot.url();
        let mut environment = vec![
            ("DINGTALK_BINDINGS", "mydingtalk"),
            ("DINGTALK_MYDINGTALK__URL", &*url),
            ("DINGTALK_MYDINGTALK__SECRET", SECRET),
        ];
        environment.extend(token.map(|token| ("DAPR_API_TOKEN", token)));
        G::start(&environment)
    }

    fn with_application(robot: &Robot, properties: &[(&str, &str)], app: SocketAddr) -> Self {
        let (url, app) = (robot.url(), format!("http://{app}"));
        let mut environment = vec![
            ("DINGTALK_BINDINGS", "team"),
            ("DINGTALK_TEAM__URL", &*url),
            ("DINGTALK_TEAM__SECRET", SECRET),
            ("DINGTALK_APP_URL", &*app),
        ];
        environment.extend(properties.iter().map(|(name, value)| match *name {
            "robotCode" => ("DINGTALK_TEAM__ROBOT_CODE", *value),
            "chatbotCorpId" => ("DINGTALK_TEAM__CHATBOT_CORP_ID", *value),
            other => panic!("{other} has no variable here"),
        }));
        G::start(&environment)
    }

    fn address(&self) -> SocketAddr {
        self.reached()
    }

    fn log(&self) -> String {
        self.written()
    }
}

/// Every test, of the gateway `$gateway`.
macro_rules! tests {
    ($gateway:ty) => {
        $crate::both::tests!($gateway);
        $crate::gateways::tests!($gateway:
            a_setting_that_is_wrong_is_named_and_its_value_is_not_shown
            several_robots_have_their_own_secrets_and_one_that_is_wrong_leaves_the_others
            pages_in_somebody_s_browser_may_not_call_and_programs_may
            what_it_cannot_remember_it_says
            bodies_have_the_limits_of_daprs
            nobody_waits_for_the_body_of_a_stranger
            an_application_that_hangs_is_given_up_at_its_time
            an_application_that_does_not_read_what_it_answers_holds_nobody
            a_long_name_of_an_operation_is_not_sent_back_whole
        );
    };
    ($gateway:ty: $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::gateways::$name::<$gateway>();
            }
        )*
    };
}
pub(crate) use tests;

fn get(gateway: &impl Gateway, path: &str) -> Reply {
    send(gateway.address(), "GET", path, &[], b"")
}

fn create(gateway: &impl Gateway, name: &str) -> Reply {
    gateway.invoke(name, "create", r#"{"message":"Hi"}"#)
}

pub fn a_setting_that_is_wrong_is_named_and_its_value_is_not_shown<G: Gateway>() {
    let team = ("DINGTALK_BINDINGS", "team");
    let url = format!("http://127.0.0.1:1/robot/send?access_token={TOKEN}");
    for (environment, variable) in [
        (&[][..], "DINGTALK_BINDINGS"),
        (&[team], "DINGTALK_TEAM__URL"),
        (&[team, ("DINGTALK_TEAM__URL", "ftp://S3CR3T")], "DINGTALK_TEAM__URL"),
        (&[team, ("DINGTALK_TEAM__URL", &url), ("DINGTALK_TEAM__SECERT", "S3CR3T")], "DINGTALK_TEAM__SECERT"),
        (&[team, ("DINGTALK_TEAM__URL", &url), ("DINGTALK_TEAM__SECRET", "S3CR3T\n")], "DINGTALK_TEAM__SECRET"),
        (&[team, ("DINGTALK_TEAM__URL", &url), ("DINGTALK_TEAM__SECRET", "")], "DINGTALK_TEAM__SECRET"),
        (&[team, ("DINGTALK_TEAM__URL", &url), ("DINGTALK_TEAM__TIMEOUT", "S3CR3T")], "DINGTALK_TEAM__TIMEOUT"),
    ] {
        let gateway = G::start(environment);
        let named = format!("environment variable {variable}: ");
        let invoked = create(&gateway, "team");
        let health = get(&gateway, "/v1.0/healthz");
        for reply in [&invoked, &health] {
            assert_eq!(reply.status, 500, "{reply:?}");
            let message = reply.json()["message"].as_str().unwrap().to_owned();
            assert!(message.contains(&named), "{message}");
        }
        // Who cannot prove to be DingTalk is not told, whoever runs it is.
        let callback = post(gateway.address(), "team", &signed(SECRET), b"{}");
        assert_eq!(callback.status, 500, "{callback:?}");
        assert!(!callback.body.contains("DINGTALK"), "{callback:?}");
        assert!(gateway.log().contains(&named), "{}", gateway.log());
        let everything = format!("{invoked:?} {health:?} {callback:?} {}", gateway.log());
        assert!(!everything.contains("S3CR3T") && !everything.contains(TOKEN), "{everything}");
    }
}

pub fn several_robots_have_their_own_secrets_and_one_that_is_wrong_leaves_the_others<G: Gateway>() {
    let (robot, app) = (talkative(), App::start());
    app.answer(Act::ok(PONG));
    let (url, app_url) = (robot.url(), format!("http://{}/bots/", app.address()));
    let gateway = G::start(&[
        ("DINGTALK_BINDINGS", "team, team-app,broken"),
        ("DINGTALK_TEAM__URL", &url),
        ("DINGTALK_TEAM__SECRET", SECRET),
        ("DINGTALK_TEAM_APP__URL", &url),
        ("DINGTALK_TEAM_APP__SECRET", "SECanother"),
        ("DINGTALK_BROKEN__SECRET", SECRET),
        ("DINGTALK_APP_URL", &app_url),
        ("APP_API_TOKEN", "t0"),
    ]);
    assert_eq!(create(&gateway, "team").status, 200);
    let refused = create(&gateway, "team-app");
    assert_eq!((refused.status, refused.metadata("check")), (500, Some("signature")), "{refused:?}");
    assert_eq!(create(&gateway, "broken").metadata("property"), Some("url"));
    assert_eq!(robot.messages().len(), 1);
    assert_answer(&post(gateway.address(), "team-app", &signed("SECanother"), text("m").as_bytes()), PONG);
    assert_eq!(post(gateway.address(), "team-app", &signed(SECRET), text("m").as_bytes()).status, 403);
    let event = app.wait_for_events(1);
    assert_eq!((event.target.as_str(), event.header("dapr-api-token")), ("/bots/team-app", vec!["t0"]));
    let loaded = |name: &str| {
        let capabilities = ["INPUT_BINDING", "OUTPUT_BINDING"];
        json!({"name": name, "type": "bindings.dingtalk.webhook", "version": "v1", "capabilities": capabilities})
    };
    let metadata = get(&gateway, "/v1.0/metadata").json();
    assert_eq!(metadata["components"], json!([loaded("broken"), loaded("team"), loaded("team-app")]));
    assert_eq!(metadata["id"], "dingtalk-gateway");
    let health = get(&gateway, "/v1.0/healthz");
    assert!(health.status == 500 && health.body.contains("DINGTALK_BROKEN__URL"), "{health:?}");
    assert_eq!(get(&gateway, "/v1.0/healthz/outbound").status, 204);
}

pub fn pages_in_somebody_s_browser_may_not_call_and_programs_may<G: Gateway>() {
    let robot = Robot::start();
    let gateway = G::serve(&robot, None);
    let body = br#"{"operation":"create","data":{"message":"Hi"}}"#;
    let path = "/v1.0/bindings/mydingtalk";
    let refused = send(gateway.address(), "POST", path, &[("origin", "https://evil.example")], body);
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(refused.body.contains("DINGTALK_ALLOWED_ORIGINS"), "{refused:?}");
    let mut connection = crate::support::Connection::open(gateway.address());
    let head = format!("POST {path} HTTP/1.1\r\nhost: evil.example\r\ncontent-length: {}\r\n\r\n", body.len());
    connection.write(head);
    connection.write(body);
    let refused = connection.read();
    assert!(refused.status == 403 && refused.body.contains("DINGTALK_ALLOWED_HOSTS"), "{refused:?}");
    assert_eq!(send(gateway.address(), "POST", path, &[], body).status, 200);
    assert_eq!(robot.stats().accepted, 1);
}

pub fn what_it_cannot_remember_it_says<G: Gateway>() {
    let robot = Robot::start();
    let gateway = G::serve(&robot, None);
    let reply = send(gateway.address(), "PUT", "/v1.0/metadata/key", &[], b"value");
    assert_eq!(reply.status, 501, "{reply:?}");
    assert!(reply.body.contains("remembers nothing"), "{reply:?}");
}

pub fn bodies_have_the_limits_of_daprs<G: Gateway>() {
    let robot = Robot::start();
    let gateway = G::serve(&robot, None);
    let sized = |size: usize| {
        let start = r#"{"operation":"create","data":{"message":"Hi"}}"#;
        format!("{start}{}", " ".repeat(size - start.len()))
    };
    assert_eq!(gateway.post("mydingtalk", &sized(4 << 20)).status, 200);
    let reply = gateway.post("mydingtalk", &sized((4 << 20) + 1));
    assert_eq!(reply.status, 400, "{reply:?}");
    assert!(reply.body.contains("stream too large (more than 4194304 bytes"), "{reply:?}");
}

pub fn nobody_waits_for_the_body_of_a_stranger<G: Gateway>() {
    let (robot, app) = (talkative(), App::start());
    let gateway = G::with_application(&robot, &[], app.address());
    let begun = |name: &str, headers: &[(String, String)]| {
        let mut connection = crate::support::Connection::open(gateway.address());
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let path = format!("/v1.0/bindings/{name}/callback");
        // A body is announced, and never comes.
        connection.write(format!("POST {path} HTTP/1.1\r\nhost: h\r\n{headers}content-length: 4000\r\n\r\n"));
        connection
    };
    let now = std::time::Instant::now();
    assert_eq!(begun("nobody", &signed(SECRET)).read().status, 404);
    assert_eq!(begun("team", &signed("SECanother")).read().status, 403);
    assert_eq!(begun("team", &signed(SECRET)[..1]).read().status, 401);
    assert!(now.elapsed() < std::time::Duration::from_secs(10), "their bodies were waited for");
    assert_eq!(begun("team", &signed(SECRET)).read().status, 408, "DingTalk's has its time");
}

/// The gateway with an application that has half a second.
fn with_half_a_second<G: Gateway>(robot: &Robot, app: SocketAddr) -> G {
    let (url, app) = (robot.url(), format!("http://{app}"));
    G::start(&[
        ("DINGTALK_BINDINGS", "team"),
        ("DINGTALK_TEAM__URL", &url),
        ("DINGTALK_TEAM__SECRET", SECRET),
        ("DINGTALK_APP_URL", &app),
        ("DINGTALK_APP_TIMEOUT", "500ms"),
    ])
}

pub fn an_application_that_hangs_is_given_up_at_its_time<G: Gateway>() {
    let (robot, app) = (talkative(), App::start());
    let gateway = with_half_a_second::<G>(&robot, app.address());
    let _gate = app.answer_behind(Act::ok(PONG));
    let reply = gateway.post("team", r#"{"operation":"get","data":1}"#);
    assert_eq!((reply.status, reply.metadata("error")), (500, Some("handler-failed")), "{reply:?}");
    assert!(reply.body.contains("has not answered within 500ms; let it answer sooner, or raise DINGTALK_APP_TIMEOUT"));
}

pub fn an_application_that_does_not_read_what_it_answers_holds_nobody<G: Gateway>() {
    use std::io::{Read, Write};
    let robot = talkative();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = with_half_a_second::<G>(&robot, listener.local_addr().unwrap());
    let application = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 64]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        stream
    });
    // More than the sockets between them hold.
    let long = format!(r#"{{"operation":"get","data":"{}"}}"#, "x".repeat(3 << 20));
    let reply = gateway.post("team", &long);
    assert!(reply.status == 200 || reply.metadata("error") == Some("handler-failed"), "{reply:?}");
    drop(application.join().unwrap());
}

pub fn a_long_name_of_an_operation_is_not_sent_back_whole<G: Gateway>() {
    let robot = Robot::start();
    let gateway = G::serve(&robot, None);
    let reply = gateway.post("mydingtalk", &format!(r#"{{"operation":"{}"}}"#, "长".repeat(100_000)));
    assert_eq!((reply.status, reply.metadata("error")), (500, Some("unsupported-operation")));
    assert!(reply.body.len() < 2_000, "{}", reply.body.len());
}
