//! The host between a simulated robot and an application, and callbacks as DingTalk sends them.

use std::net::SocketAddr;
use std::time::Instant;

use dingtalk_binding::secret::Secret;
use dingtalk_host::simulator::CallbackConfig;
use dingtalk_host::simulator::Config;
use dingtalk_host::simulator::robot::RobotConfig;
use serde_json::json;

use super::app::App;
use super::witness::{now, sign};
use super::{Host, PATIENCE, Reply, Resources, Robot, SECRET, pause, send};

/// What DingTalk is answered where nothing is to be said.
pub const EMPTY: &str = r#"{"msgtype":"empty"}"#;

/// A reply, written as no serialiser would.
pub const PONG: &str = " {\"text\" :{\"content\":\"po\\u006eg 1.0e2 你\"},\n\"msgtype\":\"text\"} ";

/// The specification's example with curl, but for the binding's name.
pub const GET: &str = r#"{
        "data": {
          "message": "Hi"
        },
        "metadata": {},
        "operation": "get"
      }"#;

/// The answer to whoever cannot prove to be DingTalk, whatever was wrong.
pub const REFUSED: &str = r#"{"errorCode":"ERR_CALLBACK","message":"callback refused"}"#;

/// The host between a simulated robot and an application. The host ends first.
pub struct Setup {
    pub host: Host,
    pub app: App,
    pub robot: Robot,
}

/// With the binding `team`.
pub fn start() -> Setup {
    start_with(&[], &[], &[])
}

pub fn start_with(properties: &[(&str, &str)], arguments: &[&str], environment: &[(&str, &str)]) -> Setup {
    start_for(App::start(), properties, arguments, environment)
}

pub fn start_for(app: App, properties: &[(&str, &str)], arguments: &[&str], environment: &[(&str, &str)]) -> Setup {
    let robot = talkative();
    let mut all = vec![("id", "team"), ("secret", SECRET)];
    let url = robot.url();
    all.push(("url", &url));
    all.extend(properties);
    let resources = Resources::binding("team", &all);
    let port = app.port();
    // Longer than anything takes here, where it is not the subject.
    let timeout = if arguments.contains(&"--callback-timeout") { vec![] } else { vec!["--callback-timeout", "60s"] };
    let arguments = [&["--app-port", &port], &timeout[..], arguments].concat();
    let host = Host::serve_with(&resources, &arguments, environment);
    robot.set_callback_url(&host.callback_url("team"));
    Setup { host, app, robot }
}

/// A robot that is patient with its receiver, and does not wait long before it tries again.
pub fn talkative() -> Robot {
    robot_with(RobotConfig { secret: Some(Secret::new(SECRET)), ..Robot::config() })
}

pub fn robot_with(robot: RobotConfig) -> Robot {
    let callback = CallbackConfig { timeout: PATIENCE, retries: 100, retry_interval: PATIENCE / 1_000, url: None };
    Robot::from(Config { robot, callback, ..Config::default() })
}

/// The headers of a genuine callback, signed now.
pub fn signed(secret: &str) -> Vec<(String, String)> {
    signed_at(secret, now())
}

/// The headers of a genuine callback, signed then.
pub fn signed_at(secret: &str, time: u64) -> Vec<(String, String)> {
    let headers = [
        ("Content-Type", "application/json; charset=utf-8".to_owned()),
        ("timestamp", time.to_string()),
        ("sign", sign(secret, time)),
    ];
    headers.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

pub fn post(address: SocketAddr, binding: &str, headers: &[(String, String)], body: &[u8]) -> Reply {
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    send(address, "POST", &format!("/v1.0/bindings/{binding}/callback"), &headers, body)
}

/// A genuine callback of `team`.
pub fn callback(host: &Host, body: &str) -> Reply {
    post(host.address(), "team", &signed(SECRET), body.as_bytes())
}

/// A text message.
pub fn text(msg_id: &str) -> String {
    json!({"msgtype": "text", "text": {"content": "ping"}, "msgId": msg_id}).to_string()
}

#[track_caller]
pub fn assert_answer(reply: &Reply, body: &str) {
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")), "{reply:?}");
    assert_eq!(reply.body, body);
}

/// DingTalk is told to send again, and nothing of the reason.
#[track_caller]
pub fn assert_later(reply: &Reply) {
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{reply:?}");
    assert_eq!(reply.json()["message"], "the message was not taken; send it again", "{reply:?}");
}

/// Tries until `done`.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} does not come");
        pause();
    }
}
