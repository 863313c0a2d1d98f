//! Secrets, access tokens and signatures never appear: not in an answer, not in a log line at any level, not
//! on the command line's output, whatever fails and however.

use dingtalk_binding::secret::Secret;
use dingtalk_host::simulator::CallbackConfig;
use dingtalk_host::simulator::Config;
use dingtalk_host::simulator::callback::Forgery;
use dingtalk_host::simulator::conversation::Say;
use dingtalk_host::simulator::fault::{Fault, Times};
use dingtalk_host::simulator::robot::RobotConfig;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::spans::collector::Collector;
use crate::support::app::{Act, App};
use crate::support::witness::{Received, Tap, base64};
use crate::support::{Host, PATIENCE, Reply, Resources, Robot, component, run, send, stderr, stdout};

/// With characters that look different in a URL.
const SECRET: &str = "SEC+c4n4ry/53cr3t=of&the?robot";
const TOKEN: &str = "c4n4ry/t0k3n+of=the&robot";
/// In the shape that DingTalk's tokens have, and after "SEC" its secrets.
const BARE: &str = "c4a4e7c4a4e7c4a4e7c4a4e7c4a4e7c4a4e7c4a4e7c4a4e7c4a4e7c4a4e7c4a4";
const API_TOKEN: &str = "c4n4ry-4p1-t0k3n";

const HELLO: &str = r#"{"msgtype":"text","text":{"content":"hello"}}"#;

/// What must not be found, each in every spelling.
fn canaries(signatures: &[String]) -> Vec<String> {
    let mut canaries = Vec::new();
    for canary in [SECRET, TOKEN, BARE, API_TOKEN].into_iter().map(str::to_owned).chain(signatures.iter().cloned()) {
        canaries.push(base64(canary.as_bytes()));
        canaries.push(base64(canary.as_bytes()).trim_end_matches('=').to_owned());
        canaries.push(encoded(&encoded(&canary)));
        canaries.push(encoded(&canary));
        canaries.push(canary);
    }
    canaries
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Everything that was seen, with where it was seen.
#[derive(Default)]
struct Seen(Vec<(String, String)>);

impl Seen {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    fn reply(&mut self, place: &str, reply: &Reply) {
        self.add(place, format!("{}\n{}", reply.status, reply.body));
        for (name, value) in &reply.headers {
            self.add(format!("{place}, header {name}"), format!("{name}: {value}"));
        }
    }

    /// What was sent by OTLP, bytes that are text among them.
    fn spans(&mut self, collector: &Collector) {
        assert!(collector.spans().len() > 20, "{:?}", collector.spans());
        for post in collector.posts() {
            self.add("spans", format!("{:?} {}", post.headers, String::from_utf8_lossy(&post.body)));
        }
    }

    fn run(&mut self, arguments: &[&str]) -> std::process::Output {
        let output = run(arguments);
        self.add(format!("standard output of {}", arguments[0]), stdout(&output));
        self.add(format!("standard error of {}", arguments[0]), stderr(&output));
        output
    }

    /// The first canary found, and where.
    fn find(&self, canaries: &[String]) -> Option<String> {
        self.0.iter().find_map(|(place, text)| {
            let found = canaries.iter().find(|canary| text.contains(canary.as_str()))?;
            Some(format!("{found} in {place}: {text}"))
        })
    }

    /// Nothing is found; and each canary would be, wherever it was.
    #[track_caller]
    fn assert_clean(mut self, canaries: &[String]) {
        assert_eq!(self.find(canaries), None);
        for canary in canaries {
            self.add("here", format!("planted {canary} in a text"));
            assert!(self.find(canaries).is_some(), "the search is blind for {canary}");
            self.0.pop();
        }
    }
}

/// The signatures that were really sent.
fn signatures(tap: &Tap) -> Vec<String> {
    let targets = tap.targets();
    let signs = targets.iter().filter_map(|target| target.split_once("&sign=").map(|(_, sign)| sign));
    signs.map(|sign| percent_decode_str(sign).decode_utf8().unwrap().into_owned()).collect()
}

fn robot() -> Robot {
    let secret = Some(Secret::new(SECRET));
    Robot::with(RobotConfig { access_token: Secret::new(TOKEN), secret, ..Robot::config() })
}

fn webhook(address: impl std::fmt::Display) -> String {
    format!("http://{address}/robot/send?access_token={}", encoded(TOKEN))
}

fn faults() -> Vec<Fault> {
    let names = [
        "delay=1ms",
        "reset",
        "half-body",
        "html",
        "throttled",
        "status=503",
        "status=401",
        "redirect=http://127.0.0.1:1/elsewhere",
        "oversized",
        "empty",
        "missing-errcode",
        "string-errcode",
        "rejected=310000:sign not match",
        "echo",
    ];
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn everything_that_can_fail(logging: &[&str]) {
    let robot = robot();
    let tap = Tap::before(robot.address());
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let tapped = webhook(tap.address());
    let refused = webhook(nobody.local_addr().unwrap());
    let secure = tapped.replacen("http:", "https:", 1);
    let unresolved = webhook("does-not-exist.invalid");
    let in_path = format!("http://{}/hook/{}", tap.address(), encoded(TOKEN));
    let wrong = format!("{SECRET}-another");
    let mut resources = Resources::new();
    for (name, url, secret, timeout) in [
        ("team", &tapped, SECRET, "30s"),
        ("hasty", &tapped, SECRET, "200ms"),
        ("wrong", &tapped, wrong.as_str(), "30s"),
        ("unsigned", &tapped, "", "30s"),
        ("refused", &refused, SECRET, "30s"),
        ("secure", &secure, SECRET, "30s"),
        ("unresolved", &unresolved, SECRET, "30s"),
        ("in-path", &in_path, SECRET, "30s"),
    ] {
        let properties = [("id", name), ("url", url), ("secret", secret), ("timeout", timeout)];
        resources = resources.with(&format!("{name}.yaml"), &component(name, &properties));
    }
    let collector = Collector::start();
    let endpoint = format!("http://{}", collector.address());
    let environment = [("DAPR_API_TOKEN", API_TOKEN), ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)];
    let host = Host::serve_with(&resources, logging, &environment);
    let mut seen = Seen::default();
    let authorised = [("dapr-api-token", API_TOKEN)];
    let mut call = |place: &str, method: &str, path: &str, body: &str| {
        let reply = send(host.address(), method, path, &authorised, body.as_bytes());
        seen.reply(place, &reply);
        reply.status
    };
    let create = |data: &str| format!(r#"{{"operation":"create","data":{data},"metadata":{{"msgUuid":"u"}}}}"#);
    for fault in faults() {
        let text = fault.to_string();
        robot.fail(fault, Times::ONCE);
        call(&text, "POST", "/v1.0/bindings/team", &create(HELLO));
    }
    // Other spellings of the token than the one that was sent.
    let spellings =
        [encoded(&encoded(TOKEN)), TOKEN.replace('/', r"\/"), TOKEN.replace('+', r"\u002b"), "\u{202e}".into()];
    robot.fail(Fault::Rejected { errcode: 400_102, errmsg: spellings.join(" ") }, Times::ONCE);
    call("spellings", "POST", "/v1.0/bindings/team", &create(HELLO));
    robot.fail(Fault::Hang, Times::ONCE);
    assert_eq!(call("hang", "POST", "/v1.0/bindings/hasty", &create(HELLO)), 500);
    robot.fail(Fault::Echo, Times::Always);
    for binding in ["team", "wrong", "unsigned", "in-path"] {
        for data in [HELLO, r#"{"message":"Hi"}"#, "\"Hi\"", "{}"] {
            assert_eq!(call("echo", "POST", &format!("/v1.0/bindings/{binding}"), &create(data)), 500);
        }
    }
    robot.fail(Fault::Html, Times::ONCE);
    for binding in ["team", "wrong", "unsigned", "refused", "secure", "unresolved", "in-path", "missing"] {
        for body in [create(HELLO), create("null"), r#"{"operation":"get"}"#.into(), "{}".into(), "{".into()] {
            call(binding, "POST", &format!("/v1.0/bindings/{binding}"), &body);
        }
    }
    for path in ["/v1.0/metadata", "/v1.0/healthz", "/v1.0/bindings/team", "/elsewhere"] {
        call(path, "GET", path, "");
    }
    for headers in [&[][..], &[("dapr-api-token", "c4n4ry-4p1")]] {
        let reply = send(host.address(), "POST", "/v1.0/bindings/team", headers, create(HELLO).as_bytes());
        assert_eq!(reply.status, 401);
        seen.reply("without token", &reply);
    }
    let log = host.end();
    assert!(log.contains("invocation failed") && log.contains("invoked"), "{log}");
    assert_eq!(log.lines().all(|line| line.starts_with('{')), !logging.is_empty(), "{log}");
    seen.add("the log", log);
    seen.spans(&collector);
    let mut canaries = canaries(&signatures(&tap));
    canaries.extend([TOKEN.replace('/', r"\/"), TOKEN.replace('+', r"\u002b"), "\u{202e}".into()]);
    let signatures = signatures(&tap);
    assert!(signatures.len() > faults().len() && signatures.iter().all(|sign| sign.len() == 44), "{signatures:?}");
    seen.assert_clean(&canaries);
}

/// What callbacks are signed with, what older robots prove themselves with, and what the application knows the host by.
const APP_SECRET: &str = "c4n4ry+4pp/s3cr3t=";
const OUTGOING_TOKEN: &str = "c4n4ry+0utg01ng/t0k3n=";
const APP_TOKEN: &str = "c4n4ry+4pp/t0k3n=";
/// What a person says.
const WORDS: &str = "c4n4ry w0rd5";

/// The values of a header in a stream of requests.
fn sent_headers(tap: &Tap, name: &str) -> Vec<String> {
    let sent = String::from_utf8_lossy(&tap.sent()).into_owned();
    let prefix = format!("{name}: ");
    let lines = sent.split("\r\n").filter_map(|line| line.strip_prefix(&prefix));
    lines.map(str::to_owned).collect()
}

/// Callbacks of every kind, taken and not; replies to sessions; and what the application can do wrong.
fn everything_that_can_be_received(logging: &[&str]) {
    let secret = |secret: &str| Some(Secret::new(secret));
    let robots = [
        RobotConfig { secret: secret(SECRET), app_secret: secret(APP_SECRET), ..Robot::config() },
        RobotConfig { outgoing_token: secret(OUTGOING_TOKEN), ..Robot::config() },
    ]
    .map(|robot| {
        let callback = CallbackConfig { timeout: PATIENCE, retries: 0, ..CallbackConfig::default() };
        Robot::from(Config { robot, callback, ..Config::default() })
    });
    let app = App::start();
    let mut resources = Resources::new();
    for (name, robot, key) in
        [("signed", &robots[0], ("appSecret", APP_SECRET)), ("token", &robots[1], ("outgoingToken", OUTGOING_TOKEN))]
    {
        let (url, hosts) = (robot.url(), format!("http://{}", robot.address()));
        let mut properties = vec![("id", name), ("url", &url), ("sessionWebhookHosts", &hosts), key];
        properties.push(("chatbotCorpId", "simulated-corporation"));
        if name == "signed" {
            properties.push(("secret", SECRET));
        }
        resources = resources.with(&format!("{name}.yaml"), &component(name, &properties));
    }
    let port = app.port();
    let arguments = [&["--app-port", &*port, "--app-timeout", "1s", "--callback-timeout", "60s"], logging].concat();
    let collector = Collector::start();
    let endpoint = format!("http://{}", collector.address());
    let environment = [("APP_API_TOKEN", APP_TOKEN), ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)];
    let host = Host::serve_with(&resources, &arguments, &environment);
    let tap = Tap::before(host.address());
    for (robot, name) in robots.iter().zip(["signed", "token"]) {
        robot.set_callback_url(&format!("http://{}/v1.0/bindings/{name}/callback", tap.address()));
    }
    let mut seen = Seen::default();
    let mut hear = |robot: &Robot, say: Say| {
        let said = robot.say(say);
        // The answers, but for replies: those are the application's own words.
        for error in said.attempts.into_iter().filter_map(|attempt| attempt.error) {
            seen.add("an answer to a callback", error);
        }
    };
    let echo = |request: &Received| {
        let session = String::from_utf8_lossy(&request.body).into_owned();
        let (_, session) = session.split_once("session=").unwrap_or_default();
        let session = session.split('"').next().unwrap_or_default();
        Act::Answer(500, format!("no: {APP_TOKEN} {session} {:?}", request.header("dapr-api-token")))
    };
    let elsewhere = r#"{"to":["missing","signed"],"data":{"message":"c4n4ry w0rd5"}}"#;
    for act in [
        Act::ok(r#"{"msgtype":"text","text":{"content":"c4n4ry w0rd5"}}"#),
        Act::ok(r#"{"msgtype":"c4n4ry","text":"c4n4ry w0rd5"}"#),
        Act::ok(r#"{"msgtype":"text","text":"c4n4ry w0rd5"}"#),
        Act::ok(elsewhere),
        Act::ok(r#"{"to":["missing"],"data":"c4n4ry w0rd5","concurrency":"parallel"}"#),
        Act::ok("c4n4ry w0rd5"),
        Act::Raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nc4n4ry w0rd5".into()),
        Act::Raw("c4n4ry w0rd5".into()),
        Act::Reset,
    ] {
        app.answer(act);
        robots.iter().for_each(|robot| hear(robot, Say::text(WORDS)));
    }
    app.answer_with(echo);
    robots.iter().for_each(|robot| hear(robot, Say::text(WORDS)));
    let gate = app.answer_behind(Act::ok(""));
    robots.iter().for_each(|robot| hear(robot, Say::text(WORDS)));
    gate.open();
    for forgery in Forgery::ALL {
        hear(&robots[0], Say::text(WORDS).forged(forgery));
    }
    for forgery in [Forgery::WrongKey, Forgery::Unsigned, Forgery::WrongRobot, Forgery::TruncatedBody] {
        hear(&robots[1], Say::text(WORDS).forged(forgery));
    }
    let sessions: Vec<String> = app
        .events()
        .iter()
        .filter_map(|event| serde_json::from_slice::<serde_json::Value>(&event.body).ok())
        .map(|message| message["sessionWebhook"].as_str().unwrap().to_owned())
        .collect();
    assert!(sessions.len() > 15, "{}", host.log());
    for (webhook, expires) in [
        (sessions[0].clone(), "9999999999999"),
        (sessions[0].clone(), "1"),
        (sessions[0].clone(), "soon"),
        (sessions[0].replace("127.0.0.1", "127.0.0.2"), ""),
        (format!("{}x", sessions[0]), ""),
        (sessions[0].replace("http:", "https:"), ""),
    ] {
        let metadata = serde_json::json!({"sessionWebhook": webhook, "sessionWebhookExpiredTime": expires});
        let body = serde_json::json!({"operation": "reply", "data": {"message": WORDS}, "metadata": metadata});
        seen.reply("an answer to reply", &host.post("signed", &body.to_string()));
    }
    let data = serde_json::json!({"message": WORDS, "sessionWebhook": sessions[0]});
    for binding in ["signed", "token", "missing"] {
        for act in [Act::ok(""), Act::Reset, Act::Answer(500, sessions[0].clone())] {
            app.answer(act);
            seen.reply("an answer to get", &host.invoke(binding, "get", &data.to_string()));
        }
    }
    let log = host.end();
    for expected in ["callback refused", "not delivered", "wrong answer", "not sent on", "callback answered"] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
    assert_eq!(log.lines().all(|line| line.starts_with('{')), !logging.is_empty(), "{log}");
    seen.add("the log", log);
    seen.spans(&collector);
    let mut signatures = sent_headers(&tap, "sign");
    assert!(signatures.len() > 20, "{signatures:?}");
    // What the forgeries make of one is none, but could still be of use.
    signatures.retain(|sign| sign.len() > 40);
    signatures.extend([APP_SECRET, OUTGOING_TOKEN, APP_TOKEN, WORDS].map(str::to_owned));
    signatures.extend(sessions.iter().map(|webhook| webhook.split_once("session=").unwrap().1.to_owned()));
    seen.assert_clean(&canaries(&signatures));
}

#[test]
fn nothing_secret_appears_when_callbacks_come() {
    everything_that_can_be_received(&[]);
}

#[test]
fn nothing_secret_appears_when_callbacks_come_and_the_log_is_json() {
    everything_that_can_be_received(&["--log-as-json"]);
}

#[test]
fn nothing_secret_appears_when_calls_fail() {
    everything_that_can_fail(&[]);
}

#[test]
fn nothing_secret_appears_when_calls_fail_and_the_log_is_json() {
    everything_that_can_fail(&["--log-as-json"]);
}

#[test]
fn nothing_secret_appears_when_the_configuration_is_wrong() {
    let good = webhook("127.0.0.1:9");
    let refused = |url: &str, secret: &str, timeout: &str| {
        component("team", &[("id", "team"), ("url", url), ("secret", secret), ("timeout", timeout)])
    };
    let signed = |url: String| refused(&url, SECRET, "");
    let by_reference = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: team\nauth:\n  \
        secretStore: store\nspec:\n  type: bindings.dingtalk.webhook\n  version: v1\n  metadata:\n  - name: id\n    \
        value: team\n  - name: url\n    secretKeyRef: {name: url, key: url}\n  - name: secret\n    secretKeyRef: \
        {name: KEY, key: KEY}\n---\napiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: store\nspec:\n  \
        type: secretstores.local.file\n  version: v1\n  metadata:\n  - name: secretsFile\n    value: secrets.json\n";
    let mut files = vec![
        signed(format!("ftp://h/robot/send?access_token={TOKEN}")),
        signed(format!("https://{}@h/robot/send", encoded(TOKEN))),
        signed(format!("https://user:{}@h/robot/send", encoded(TOKEN))),
        signed(format!("https://h/robot/send?access_token={TOKEN}\n")),
        signed(format!("https://h:x/robot/send?access_token={TOKEN}")),
        signed(format!("https://群/robot/send?access_token={TOKEN}")),
        signed(format!("https://[::1/robot/send?access_token={TOKEN}")),
        signed(format!("/robot/send?access_token={TOKEN}")),
        refused(&good, " \t", ""),
        refused(&good, &format!("{SECRET}\n"), ""),
        refused(&good, &format!("{SECRET}\u{feff}"), ""),
        refused(&good, &format!("\"{SECRET}\""), ""),
        refused(&good, &good, ""),
        refused(&good, SECRET, BARE),
        signed(BARE.into()),
        signed(format!("SEC{BARE}")),
        signed(format!("https://{BARE}/robot/send")),
        signed(format!("access_token={BARE}")),
        component("team", &[("id", BARE), ("url", &good), ("secret", SECRET)]),
        component("team", &[("id", "team"), ("url", &good), ("appSecret", &format!("{SECRET} "))]),
        component("team", &[("id", "team"), ("url", &good), ("robotCode", &format!(" {BARE}"))]),
        component("team", &[("id", "team"), ("url", &good), ("sessionWebhookHosts", BARE)]),
        refused(&good, SECRET, "soon"),
        refused(&good, SECRET, "0s"),
        refused("", SECRET, ""),
        component("team", &[("url", &good), ("secret", SECRET)]),
        component("team", &[("id", "team"), ("url", &good), ("secret", SECRET), ("Secret", SECRET)]),
        component("team", &[("id", "team"), ("url", &good), ("secret", SECRET)]).replace("version: v1", "version: v9"),
        component("team", &[("id", "team"), ("url", "{podName}"), ("secret", SECRET)]),
        by_reference.replace("KEY", "none"),
        by_reference.replace("KEY", "nested"),
        by_reference.replace("KEY", "empty"),
        // YAML that breaks at and after the canaries.
        format!("{}    {SECRET}: [\n", component("team", &[("url", &good), ("secret", SECRET)])),
        component("team", &[("url", &good)]) + &format!("  - name: secret\n    value: \"{SECRET}\n"),
        component("team", &[("url", &good)]) + &format!("  - name: secret\n    value: {{{SECRET}: 1}}\n"),
        component("team", &[("url", &good)]) + &format!("  - name: secret\n    value: [{SECRET}]\n"),
        component("team", &[("url", &good)]) + &format!("  - name: secret\n    value: *{SECRET}\n"),
        component("team", &[("url", &good)]) + &format!("  - name: secret\n    value: !{SECRET} x\n"),
        component("team", &[("url", &good)]) + &format!("  - name: secret\n    \"{SECRET}\": x\n  - {TOKEN}\n"),
        format!("{SECRET}\n"),
    ];
    files.push(component("team", &[("id", "team"), ("url", "ftp://h"), ("secret", SECRET)]) + "  ignoreErrors: true\n");
    let mut seen = Seen::default();
    let secrets =
        serde_json::json!({"url": good, "secret": SECRET, "nested": {"deep": SECRET}, "empty": ""}).to_string();
    for broken in [secrets.clone(), format!("{secrets}{SECRET}"), format!("[\"{SECRET}\"]")] {
        for (index, yaml) in files.iter().enumerate() {
            let by_reference = yaml.contains("secretKeyRef");
            if broken != secrets && !by_reference {
                continue;
            }
            let resources = Resources::new().with("team.yaml", yaml).with("secrets.json", &broken);
            let path = resources.path().to_str().unwrap();
            let file = resources.path().join("team.yaml");
            if !yaml.contains("ignoreErrors") {
                let arguments = ["serve", "--resources-path", path, "--dapr-http-port", "0", "--log-level", "debug"];
                for more in [&[][..], &["--log-as-json"]] {
                    let output = seen.run(&[&arguments[..], more].concat());
                    assert_eq!(output.status.code(), Some(1), "{index}: {yaml}\n{output:?}");
                }
            } else {
                let host = Host::serve(&resources);
                seen.reply("a binding left out", &host.invoke("team", "create", HELLO));
                seen.add("the log", host.end());
            }
            for form in ["text", "json"] {
                let file = file.to_str().unwrap();
                let arguments =
                    ["invoke", "--component", file, "--data", HELLO, "--output", form, "--log-level", "debug"];
                let output = seen.run(&arguments);
                assert_eq!(output.status.code(), Some(1), "{index}: {yaml}\n{output:?}");
            }
        }
    }
    seen.assert_clean(&canaries(&[]));
}

#[test]
fn nothing_secret_appears_on_the_command_line() {
    let robot = robot();
    let tap = Tap::before(robot.address());
    let (url, wrong) = (webhook(tap.address()), format!("{SECRET}-another"));
    let mut seen = Seen::default();
    for (secret, fault) in [
        (SECRET, None),
        (wrong.as_str(), None),
        (SECRET, Some(Fault::Echo)),
        (wrong.as_str(), Some(Fault::Echo)),
        (SECRET, Some(Fault::Html)),
        (SECRET, Some(Fault::Reset)),
    ] {
        let resources = Resources::binding("team", &[("id", "team"), ("url", &url), ("secret", secret)]);
        let file = resources.path().join("team.yaml");
        for form in ["text", "json"] {
            if let Some(fault) = &fault {
                robot.fail(fault.clone(), Times::ONCE);
            }
            let file = file.to_str().unwrap();
            let arguments = ["invoke", "--component", file, "--data", HELLO, "--output", form, "--log-level", "debug"];
            let output = seen.run(&arguments);
            let code = i32::from(secret != SECRET || fault.is_some());
            assert_eq!(output.status.code(), Some(code), "{output:?}");
        }
    }
    let signatures = signatures(&tap);
    assert_eq!(signatures.len(), 12);
    seen.assert_clean(&canaries(&signatures));
}

/// What could be a secret in the wrong place, in the shapes that DingTalk's and others' have.
fn shapes() -> [String; 5] {
    [
        format!("SEC{BARE}"),
        BARE.into(),
        "8kQv-1TzW_e0RmXp3LdYb7NcUa5JhGs2-9VoPi4Ft6Kq_Zx8Cw1BnMy0DjHl3EgS".into(),
        "8kQv-1TzW_e0RmXp3LdYb7NcUa5JhGs2".into(),
        "q83vEjRWeJ+rze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=".into(),
    ]
}

/// Files that are right, with everything in them that is read. Each value stands between angle brackets.
const FILES: [(&str, &str); 4] = [
    (
        "team.yaml",
        "apiVersion: <dapr.io/v1alpha1>\nkind: <Component>\nmetadata:\n  name: <team>\n  namespace: <production>\nscopes: [<shop>]\n\
         auth:\n  secretStore: <store>\nspec:\n  type: <bindings.dingtalk.webhook>\n  version: <v1>\n  initTimeout: <5s>\n  \
         ignoreErrors: <false>\n  metadata:\n  - {name: <id>, value: <team>}\n  - {name: <url>, value: <http://127.0.0.1:9/>}\n  \
         - {name: secret, secretKeyRef: {name: <robot>, key: <secret>}}\n  - {name: <timeout>, value: <5s>}\n  \
         - {name: connectTimeout, value: <5s>}\n  - {name: callbackMaxSkew, value: <1h>}\n  \
         - {name: direction, value: <output>}\n  - {name: route, value: <team>}\n  - {name: robotCode, value: <robot>}\n  \
         - {name: chatbotCorpId, value: <corp>}\n  - {name: appSecret, value: <a>}\n  - {name: previousAppSecret, value: <b>}\n  \
         - {name: outgoingToken, value: <c>}\n  - {name: sessionWebhookHosts, value: <gateway.example.com>}\n  \
         - {name: other, envRef: <APP_NAME>}\n",
    ),
    (
        "store.yaml",
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: <store>}\nspec:\n  type: <secretstores.local.file>\n  \
         version: <v1>\n  metadata:\n  - {name: <secretsFile>, value: <secrets.json>}\n  - {name: nestedSeparator, value: <:>}\n  \
         - {name: multiValued, value: <false>}\n",
    ),
    (
        "resiliency.yaml",
        "apiVersion: dapr.io/v1alpha1\nkind: <Resiliency>\nmetadata: {name: <r>, namespace: <production>}\nscopes: [<shop>]\nspec:\n  \
         policies:\n    timeouts: {<short>: <5s>}\n    retries:\n      <again>: {policy: <constant>, duration: <1s>, maxInterval: \
         <1s>, maxRetries: <3>, matching: {httpStatusCodes: <500-599>, gRPCStatusCodes: <1>}}\n    circuitBreakers:\n      \
         <b>: {maxRequests: <1>, interval: <1s>, timeout: <1s>, trip: <consecutiveFailures > 3>}\n  targets:\n    \
         components:\n      <team>: {outbound: {timeout: <short>, retry: <again>, circuitBreaker: <b>}}\n",
    ),
    (
        "config.yaml",
        "apiVersion: <dapr.io/v1alpha1>\nkind: <Configuration>\nmetadata: {name: <c>, namespace: <production>}\nspec:\n  api:\n    allowed: \
         [{name: <bindings>, version: <v1>, protocol: <http>}]\n    denied: [{name: <metadata>, version: <v1>, protocol: \
         <grpc>}]\n  metrics: {enabled: <true>, <rules>: <none>}\n  tracing: {samplingRate: <1>}\n  features: [{name: \
         <HotReload>, enabled: <true>}]\n  <httpPipeline>: <none>\n",
    ),
];

/// The text with `canary` for the value at `at`; `None` behind the last one.
fn planted(text: &str, at: usize, canary: &str) -> Option<String> {
    let mut parts = text.split('<');
    let (mut planted, mut found) = (parts.next()?.to_owned(), false);
    for (number, part) in parts.enumerate() {
        // "consecutiveFailures > 3" has one of its own.
        let (value, rest) = part.rsplit_once(">").unwrap();
        found |= number == at;
        planted.push_str(&serde_json::to_string(if number == at { canary } else { value }).unwrap());
        planted.push_str(rest);
    }
    found.then_some(planted)
}

#[test]
fn a_secret_in_the_wrong_place_of_a_file_is_not_shown() {
    let mut seen = Seen::default();
    let mut runs = 0;
    let secrets = r#"{"robot": {"secret": "of-the-robot"}}"#;
    for (index, (file, text)) in FILES.iter().enumerate() {
        for at in 0.. {
            let shapes = shapes();
            // Each of the shapes is somewhere in each file; all of them everywhere would take minutes.
            let canary = &shapes[(at + index) % shapes.len()];
            let Some(changed) = planted(text, at, canary) else { break };
            let mut resources = Resources::new().with("secrets.json", secrets);
            for (other, text) in FILES {
                let text = if other == *file { changed.clone() } else { right(text) };
                let name = if other == "config.yaml" { "config.txt" } else { other };
                resources = resources.with(name, &text);
            }
            let (path, config) = (resources.path().to_str().unwrap(), resources.path().join("config.txt"));
            let mut command = crate::support::command(&[
                "serve",
                "--app-id",
                "shop",
                "--resources-path",
                path,
                "--config",
                config.to_str().unwrap(),
                "--log-level",
                "debug",
                "--dapr-http-port",
                "0",
                // It cannot start, whatever the files say.
                "--app-port",
                "1",
                "--inbox",
                config.to_str().unwrap(),
            ]);
            command.env("NAMESPACE", "production").env("APP_NAME", "shop");
            let output = crate::support::finish(command, b"");
            assert_eq!(output.status.code(), Some(1), "{changed}\n{output:?}");
            seen.add(format!("{file}, value {at}"), stderr(&output) + &stdout(&output));
            runs += 1;
        }
    }
    assert!(runs > 70, "{runs}");
    // Something was said of most of them.
    let said = seen.0.iter().filter(|(_, text)| text.contains("characters")).count();
    seen.assert_clean(&shapes());
    assert!(said > 10, "{said}");
}

/// The text as it is without a canary.
fn right(text: &str) -> String {
    text.split('<')
        .enumerate()
        .map(|(number, part)| match (number, part.rsplit_once('>')) {
            (0, _) => part.to_owned(),
            (_, Some((value, rest))) => serde_json::to_string(value).unwrap() + rest,
            (_, None) => part.to_owned(),
        })
        .collect()
}

#[test]
fn a_secret_in_the_wrong_flag_is_not_shown() {
    let mut seen = Seen::default();
    let mut runs = 0;
    for subcommand in dingtalk_host::cli::command().get_subcommands() {
        for (index, flag) in subcommand.get_arguments().enumerate() {
            let Some(long) = flag.get_long() else { continue };
            let canary = &shapes()[index % shapes().len()];
            for value in [canary.clone(), format!("x,{canary}"), format!("http://{canary}.example/{canary}")] {
                // The last one ends what would run.
                let output = seen.run(&[subcommand.get_name(), &format!("--{long}={value}"), &format!("--{canary}")]);
                assert_eq!(output.status.code(), Some(2), "{output:?}");
                runs += 1;
            }
        }
    }
    assert!(runs > 100, "{runs}");
    let (directory, file) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    for canary in shapes() {
        let canary = canary.replace('/', "-");
        // Below a file nothing can be made.
        let nowhere = file.path().join(&canary).join(&canary);
        let nowhere = nowhere.to_str().unwrap();
        for arguments in [
            &["serve", "--resources-path", nowhere][..],
            &[
                "serve",
                "--resources-path",
                directory.path().to_str().unwrap(),
                "--dapr-http-port",
                "0",
                "--config",
                nowhere,
            ],
            &[
                "serve",
                "--resources-path",
                directory.path().to_str().unwrap(),
                "--dapr-http-port",
                "0",
                "--app-port",
                "1",
                "--inbox",
                nowhere,
            ],
            &[
                "serve",
                "--resources-path",
                directory.path().to_str().unwrap(),
                "--dapr-http-port",
                "0",
                "--handler",
                nowhere,
            ],
            &["invoke", "--component", nowhere, "--data", "x"],
            &["invoke", "--component", nowhere, "--data-file", nowhere],
            &["inbox", "list", "--inbox", nowhere],
            &["simulate", "--secret-file", nowhere],
            &["component", "--output", nowhere],
            &[&canary],
        ] {
            let output = seen.run(arguments);
            assert!(!output.status.success(), "{output:?}");
        }
    }
    let shapes = shapes().map(|shape| shape.replace('/', "-"));
    seen.assert_clean(&shapes);
}
