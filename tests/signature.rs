//! A server that checks the signature on its own accepts every send, whatever characters secret and url
//! contain. The server shares no code with the binding: it reads the request by hand, the query with the
//! `url` crate, and computes the HMAC with `ring`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dingtalk_binding::error::InvokeError;
use dingtalk_binding::secret::is_hidden;
use dingtalk_binding::settings::Settings;
use dingtalk_component::COMPONENT;
use dingtalk_host::clock::{self, Clock};
use dingtalk_host::egress::{Egress, Proxies};
use dingtalk_host::sandbox::{CallError, Limits, Request, Response, Sandbox};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use url::Url;

use crate::support::witness::{self, Received, Witness};
use crate::support::{PATIENCE, limits};

/// The component in its sandbox, sending to a witness.
struct Setup {
    runtime: tokio::runtime::Runtime,
    sandbox: Sandbox,
    server: Witness,
}

impl Setup {
    fn new(clock: Clock) -> Self {
        Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            sandbox: Sandbox::new(COMPONENT, Limits { instances: 2, ..limits() }, clock).unwrap(),
            server: Witness::start(),
        }
    }

    fn send(&self, url: &str, secret: Option<&str>, data: &str) -> Result<Response, CallError<InvokeError>> {
        let mut properties = vec![("id".to_owned(), "x".to_owned()), ("url".to_owned(), url.to_owned())];
        properties.extend(secret.map(|secret| ("secret".to_owned(), secret.to_owned())));
        let settings = Settings::parse(properties.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .map_err(CallError::Init)?;
        self.runtime.block_on(async {
            let egress = Egress::new("x", &settings, &Proxies::none()).unwrap();
            let tenant = self.sandbox.tenant(properties, egress, settings.timeout);
            let request = Request { operation: "create".into(), data: data.into(), metadata: vec![] };
            self.sandbox.invoke(&tenant, request, None).await
        })
    }

    /// What arrived of one send.
    fn sent(&self, url: &str, secret: Option<&str>) -> Received {
        let before = self.server.received().len();
        self.send(url, secret, "{}").unwrap();
        let received = self.server.received();
        assert_eq!(received.len(), before + 1, "one send is one request");
        received.last().unwrap().clone()
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

/// Name and value of each parameter, decoded in the standard way.
fn parameters(url: &str) -> Vec<(String, String)> {
    Url::parse(url).unwrap().query_pairs().into_owned().collect()
}

fn is_signature(name: &str) -> bool {
    name == "timestamp" || name == "sign"
}

/// The checking server's decision: the timestamp, or why it refuses.
fn check(received: &Received, secret: &str) -> Result<u64, String> {
    let all = parameters(&format!("http://h{}", received.target));
    let signing: Vec<_> = all.iter().filter(|(name, _)| is_signature(name)).collect();
    let [(first, timestamp), (second, sign)] = signing.as_slice() else { return Err(format!("{signing:?}")) };
    if (first.as_str(), second.as_str()) != ("timestamp", "sign") {
        return Err(format!("{signing:?}"));
    }
    if *sign != witness::sign(secret, timestamp) {
        return Err("sign not match".into());
    }
    timestamp.parse().map_err(|error| format!("{timestamp}: {error}"))
}

/// Text without control characters, rich in what URLs and their escaping care about.
fn awkward(longest: usize) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[ -~]{1,4}",
        2 => "[+/%&=#\"'\\\\ ?;:@]{1,4}",
        1 => "%[0-9a-fA-F]{2}",
        1 => "[你好😀éß\u{a0}]{1,2}",
        1 => "\\PC{1,3}",
    ];
    proptest::collection::vec(piece, 0..longest).prop_map(|pieces| pieces.concat())
}

fn secret() -> impl Strategy<Value = String> {
    let usual = "SEC[0-9a-f]{64}".prop_map(String::from);
    prop_oneof![1 => usual, 3 => awkward(20)]
        // What is not seen in a secret is refused, as are an address and quotes around it.
        .prop_map(|secret| secret.replace(|c: char| c.is_whitespace() || is_hidden(c), ""))
        .prop_filter("no secret", |secret| {
            !secret.is_empty() && !secret.contains("://") && !secret.starts_with(['"', '\''])
        })
}

fn path() -> impl Strategy<Value = String> {
    let awkward = awkward(4).prop_map(|path| format!("/{}", path.replace(['?', '#'], "")));
    prop_oneof![Just("/robot/send".to_owned()), Just(String::new()), Just("/".to_owned()), awkward]
}

fn query() -> impl Strategy<Value = String> {
    let parameter = prop_oneof![
        2 => "access_token=[0-9a-f]{8}",
        1 => Just("timestamp=1600000000000".to_owned()),
        1 => Just("sign=c3RhbGU%3D".to_owned()),
        1 => Just("times%74amp=1&%73ign=".to_owned()),
        1 => Just("sign".to_owned()),
        1 => Just("Sign=kept&signs=kept&timestamp2=kept&sign%20=kept".to_owned()),
        1 => Just(String::new()),
        4 => awkward(4).prop_map(|text| text.replace('#', "")),
    ];
    let some = proptest::collection::vec(parameter, 0..6).prop_map(|all| format!("?{}", all.join("&")));
    prop_oneof![1 => Just(String::new()), 6 => some]
}

fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just(String::new()), 1 => Just("#top?sign=x&timestamp=1".to_owned()), 1 => Just("#".to_owned())]
}

fn decoded(path: &str) -> String {
    percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned()
}

#[test]
fn every_send_is_signed_for_a_server_that_checks_on_its_own() {
    let setup = Setup::new(clock::system());
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let cases = (secret(), path(), query(), fragment(), awkward(10));
    runner
        .run(&cases, |(secret, path, query, fragment, content)| {
            let url = setup.server.url(&format!("{path}{query}{fragment}"));
            let before = now();
            let data = serde_json::json!({"msgtype": "text", "text": {"content": content}}).to_string();
            setup.send(&url, Some(&secret), &data).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let after = now();
            let received = setup.server.received().pop().unwrap();

            let timestamp = check(&received, &secret).map_err(TestCaseError::fail)?;
            prop_assert!((before..=after).contains(&timestamp), "{before} {timestamp} {after}");

            // Everything else arrives as configured, in its order, before the signature.
            let mut expected: Vec<_> = parameters(&url).into_iter().filter(|(name, _)| !is_signature(name)).collect();
            let found = parameters(&format!("http://h{}", received.target));
            expected.extend(found.iter().filter(|(name, _)| is_signature(name)).cloned());
            prop_assert_eq!(&found, &expected);
            let sent_path = received.target.split('?').next().unwrap();
            let written = path.trim_end_matches(if query.is_empty() && fragment.is_empty() { ' ' } else { '\0' });
            prop_assert_eq!(decoded(sent_path), decoded(if written.is_empty() { "/" } else { written }));
            prop_assert!(received.target.bytes().all(|byte| byte.is_ascii_graphic()), "{}", received.target);

            prop_assert_eq!(&received.method, "POST");
            prop_assert_eq!(received.header("host"), [setup.server.address().to_string()]);
            prop_assert_eq!(received.header("content-type"), ["application/json"]);
            prop_assert_eq!(received.header("accept"), ["application/json"]);
            prop_assert_eq!(received.header("content-length"), [data.len().to_string()]);
            prop_assert_eq!(received.header("transfer-encoding"), Vec::<&str>::new());
            prop_assert_eq!(&received.body, data.as_bytes());
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_checking_server_refuses_what_is_wrong() {
    let setup = Setup::new(clock::system());
    let good = setup.sent(&setup.server.url("/robot/send?access_token=x"), Some("SECone"));
    assert!(check(&good, "SECone").is_ok());
    assert_eq!(check(&good, "SECtwo"), Err("sign not match".into()));
    let with = |target: String| check(&Received { target, ..good.clone() }, "SECone");
    assert!(with(good.target.replace("%3D", "%253D")).is_err(), "encoded twice");
    assert!(with(format!("{}&sign=x", good.target)).is_err(), "two signatures");
    assert!(with("/robot/send?access_token=x".into()).is_err(), "none");
}

/// The published signatures; their sources stand in src/signature.rs.
const VECTORS: [(u64, &str, &str); 3] = [
    (
        1_582_163_555_000,
        "SECb90923e19e58b466481e9e7b7a5b4f108a4531abde590ad3967fb29f0eae5c68",
        "BQKsG%2BQOCl%2BbYJOLc6pxDHxjVquzlZPWgvRzeN2J5zY%3D",
    ),
    (1_700_000_000_000, "secret", "OuzzJR5%2BxZ4%2FEYwqtNt6sMYZQMTa%2FHEGvc9miJe7XzY%3D"),
    (1_684_493_546_276, "client-secret-for-test", "nwBJQmaBLv9%2B5%2FsSS%2F66jcFc1%2FkGY5wo38L88LOGfRU%3D"),
];

#[test]
fn at_their_times_the_published_signatures_stand_in_the_url() {
    let time = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&time);
    let setup = Setup::new(Arc::new(move || clock.load(Ordering::SeqCst)));
    for (timestamp, secret, sign) in VECTORS {
        time.store(timestamp, Ordering::SeqCst);
        let received = setup.sent(&setup.server.url("/robot/send?access_token=x"), Some(secret));
        assert_eq!(received.target, format!("/robot/send?access_token=x&timestamp={timestamp}&sign={sign}"));
        assert_eq!(check(&received, secret), Ok(timestamp));
    }
}

#[test]
fn each_send_is_signed_for_its_own_time() {
    let time = Arc::new(AtomicU64::new(1_700_000_000_000));
    let clock = Arc::clone(&time);
    let setup = Setup::new(Arc::new(move || clock.fetch_add(3_599_999, Ordering::SeqCst)));
    let url = setup.server.url("/robot/send?access_token=x");
    let mut seen = HashMap::new();
    for _ in 0..5 {
        let received = setup.sent(&url, Some("SECone"));
        let timestamp = check(&received, "SECone").unwrap();
        assert_eq!(seen.insert(timestamp, received.target), None, "signed for the same time twice");
    }
    assert_eq!(seen.len(), 5);
    assert_eq!(seen.values().collect::<std::collections::HashSet<_>>().len(), 5);
}

#[test]
fn the_time_is_taken_when_sending_not_when_loading() {
    let setup = Setup::new(clock::system());
    let url = setup.server.url("/robot/send");
    let properties = [("id", "x"), ("url", url.as_str()), ("secret", "SECone")];
    let settings = Settings::parse(properties).unwrap();
    let owned = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let tenant = setup.sandbox.tenant(owned, Egress::new("x", &settings, &Proxies::none()).unwrap(), settings.timeout);
    let request = Request { operation: "create".into(), data: b"{}".to_vec(), metadata: vec![] };
    let mut last = 0;
    for _ in 0..2 {
        while now() <= last {
            std::thread::sleep(Duration::from_millis(1));
        }
        let before = now();
        setup.runtime.block_on(setup.sandbox.invoke(&tenant, request.clone(), None)).unwrap();
        last = check(setup.server.received().last().unwrap(), "SECone").unwrap();
        assert!(last >= before && last - before < PATIENCE.as_millis() as u64);
    }
}

#[test]
fn without_a_secret_neither_parameter_is_sent() {
    let setup = Setup::new(clock::system());
    for secret in [None, Some("")] {
        for (target, arrives) in [
            ("/robot/send?access_token=x", "/robot/send?access_token=x"),
            ("/robot/send?timestamp=1&access_token=x&sign=y", "/robot/send?access_token=x"),
            ("/robot/send", "/robot/send"),
            ("", "/"),
        ] {
            assert_eq!(setup.sent(&setup.server.url(target), secret).target, arrives);
        }
    }
}
