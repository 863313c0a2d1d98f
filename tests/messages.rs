//! What is sent is what arrives: an object byte for byte, a short form as the message it stands for, and
//! nothing at all where there is no message. Size and nesting harm neither the call nor the next one.

use serde_json::{Value, json};

use crate::support::witness::Witness;
use crate::support::{self, Host, Reply, Resources, Robot, component, stderr};

struct Setup {
    robot: Robot,
    host: Host,
    resources: Resources,
}

impl Setup {
    fn new() -> Self {
        let robot = Robot::start();
        let resources = Resources::of("team", &robot);
        Self { host: Host::serve(&resources), robot, resources }
    }

    /// Calls `create` with data and metadata as written.
    fn create(&self, data: &str, metadata: &str) -> Reply {
        self.host.post("team", &format!(r#"{{"operation":"create","metadata":{metadata},"data":{data}}}"#))
    }

    /// The last message of the group, as written by the sender.
    fn last(&self) -> String {
        self.robot.messages().last().unwrap().message.get().to_owned()
    }

    /// The message that the short form becomes.
    fn message(&self, data: &str, metadata: &str) -> Value {
        let reply = self.create(data, metadata);
        assert_eq!(reply.status, 200, "{data} {metadata}: {reply:?}");
        serde_json::from_str(&self.last()).unwrap()
    }

    /// `invoke` from the shell with this file of data.
    fn invoke_file(&self, data: &[u8], more: &[&str]) -> std::process::Output {
        let (file, input) = (self.resources.path().join("team.yaml"), self.resources.path().join("data"));
        std::fs::write(&input, data).unwrap();
        let (file, input) = (file.to_str().unwrap(), input.to_str().unwrap());
        support::run(&[&["invoke", "--component", file, "--data-file", input], more].concat())
    }
}

fn text(content: &str) -> Value {
    json!({"msgtype": "text", "text": {"content": content}})
}

#[test]
fn an_object_arrives_byte_for_byte() {
    let setup = Setup::new();
    for data in [
        r#"{"msgtype":"text","text":{"content":"Hi"}}"#,
        "{ \"text\" : {\"content\"\t:\"Hi\"},\n\n  \"msgtype\":\"text\"  }",
        r#"{"z":12345678901234567890,"msgtype":"text","y":1.0,"x":-0.0,"w":1E40,"text":{"content":"1"},"a":0.10}"#,
        r#"{"msgtype":"\u0074ext","text":{"content":"\u4f60\/\ud83d\ude00 \"q\" \\ 你😀"}}"#,
        r#"{"msgtype":"link","msgtype":"text","text":{"content":"twice"}}"#,
        r#"{"message":"kept","msgtype":"text","text":{"content":"Hi"}}"#,
        "{\"msgtype\":\"text\",\"text\":{\"content\":\"\u{7f}\u{2028}\u{feff}\"}}",
    ] {
        let reply = setup.create(data, "{}");
        assert_eq!(reply.status, 200, "{data}: {reply:?}");
        assert_eq!(setup.last(), data);
        // Options of the short forms do not touch an object.
        let reply = setup.create(data, r#"{"msgtype":"markdown","title":"T","atMobiles":"138","isAtAll":"true"}"#);
        assert_eq!(reply.status, 200, "{data}: {reply:?}");
        assert_eq!(setup.last(), data);
        let output = setup.invoke_file(data.as_bytes(), &[]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(setup.last(), data);
    }
}

#[test]
fn half_a_surrogate_pair_arrives_as_one_replacement_character() {
    let setup = Setup::new();
    let data = r#"{ "text" : {"content":"a \ud800\ud83d\ude00"},"msgtype":"text"}"#;
    let arrived = data.replace("\\ud800", "\\ufffd");
    let reply = setup.create(data, "{}");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(setup.last(), arrived);
    // Past the API: the component does so for every host.
    let output = setup.invoke_file(data.as_bytes(), &[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(setup.last(), arrived);
    assert_eq!(setup.message(r#""\udfff""#, "{}"), text("\u{fffd}"));
    assert_eq!(setup.message(r#"{"message":"\udfff"}"#, r#"{"msgUuid":"\ud800"}"#)["msgUuid"], "\u{fffd}");
}

#[test]
fn every_type_of_message_arrives() {
    let setup = Setup::new();
    for message in [
        json!({"msgtype": "link", "link": {"title": "T", "text": "x", "messageUrl": "https://m", "picUrl": ""}}),
        json!({"msgtype": "markdown", "markdown": {"title": "T", "text": "# x"}, "at": {"isAtAll": true}}),
        json!({"msgtype": "actionCard", "actionCard": {"title": "T", "text": "x", "btnOrientation": "1",
            "btns": [{"title": "A", "actionURL": "a:"}, {"title": "B", "actionURL": "b:"}]}}),
        json!({"msgtype": "feedCard", "feedCard": {"links": [{"title": "A", "messageURL": "a:", "picURL": "p:"}]}}),
    ] {
        assert_eq!(setup.message(&message.to_string(), "null"), message);
    }
}

#[test]
fn the_short_forms_become_messages() {
    let setup = Setup::new();
    assert_eq!(setup.message(r#"{"message":"Hi"}"#, "{}"), text("Hi"));
    assert_eq!(setup.message("{\n \"mess\\u0061ge\" : \"a \\\"b\\\"\\n你😀\" }", "{}"), text("a \"b\"\n你😀"));
    assert_eq!(setup.message(r#""Hi \u0026 bye""#, "{}"), text("Hi & bye"));
    for (raw, content) in [
        ("plain text", "plain text"),
        (" two\nlines\n", " two\nlines\n"),
        ("[ALERT] disk: 100%", "[ALERT] disk: 100%"),
        ("3 errors in C:\\Logs", "3 errors in C:\\Logs"),
        ("\u{feff}after a mark", "after a mark"),
        ("\"quoted\"", "quoted"),
        ("报警 🚨", "报警 🚨"),
    ] {
        let output = setup.invoke_file(raw.as_bytes(), &[]);
        assert!(output.status.success(), "{raw:?}: {output:?}");
        assert_eq!(serde_json::from_str::<Value>(&setup.last()).unwrap(), text(content), "{raw:?}");
    }
}

#[test]
fn metadata_shapes_the_short_forms_whatever_the_case_of_its_names() {
    let setup = Setup::new();
    let at = json!({"atMobiles": ["13800000000", "+1-2"], "atUserIds": ["user1"], "isAtAll": true});
    for names in [
        ["atMobiles", "atUserIds", "isAtAll", "msgtype", "title"],
        ["atmobiles", "atuserids", "isatall", "msgtype", "title"],
        ["ATMOBILES", "ATUSERIDS", "ISATALL", "MSGTYPE", "TITLE"],
    ] {
        let [mobiles, users, all, msgtype, title] = names;
        let metadata = json!({mobiles: "13800000000, +1-2", users: "user1", all: "TRUE", "traceparent": "00-1-2-00"});
        let content = "Hi @user1 @13800000000 @+1-2";
        let expected = json!({"msgtype": "text", "text": {"content": content}, "at": at});
        assert_eq!(setup.message("\"Hi @user1\"", &metadata.to_string()), expected);
        let markdown = json!({msgtype: "markdown", title: "Build 7"});
        let expected = json!({"msgtype": "markdown", "markdown": {"title": "Build 7", "text": "# Failed\n\nsee"}});
        assert_eq!(setup.message(r##"{"message":"# Failed\n\nsee"}"##, &markdown.to_string()), expected);
        let untitled = json!({msgtype: "markdown"});
        assert_eq!(setup.message(r##""# Failed\n\nsee""##, &untitled.to_string())["markdown"]["title"], "Failed");
    }
    let shown = setup.robot.messages().first().unwrap().shown.clone();
    assert!(shown.contains("mentions everybody, @13800000000, @+1-2, @user1"), "{shown}");
}

#[test]
fn a_msg_uuid_is_put_into_the_message_and_repeats_nothing() {
    let setup = Setup::new();
    let object = r#"{"text" : {"content":"1.0"}, "msgtype":"text","n":1.50,"msgUuid":"the object's"}"#;
    for (count, (data, metadata, arrives)) in [
        (object, r#"{"msgUuid":"a\"1"}"#, r#"{"msgUuid":"a\"1","text":{"content":"1.0"},"msgtype":"text","n":1.50}"#),
        (r#"{"message":"Hi"}"#, r#"{"MSGUUID":"2"}"#, r#"{"msgtype":"text","text":{"content":"Hi"},"msgUuid":"2"}"#),
        ("\"Hi\"", r#"{"msguuid":"3"}"#, r#"{"msgtype":"text","text":{"content":"Hi"},"msgUuid":"3"}"#),
        (object, "{}", object),
    ]
    .into_iter()
    .enumerate()
    {
        for _ in 0..2 {
            assert_eq!(setup.create(data, metadata).status, 200);
            assert_eq!(setup.last(), arrives);
        }
        assert_eq!(setup.robot.messages().len(), count + 1);
        assert_eq!(setup.robot.stats().repeated, count as u64 + 1);
    }
}

#[test]
fn what_is_no_message_is_refused_before_anything_is_sent() {
    let setup = Setup::new();
    for (data, metadata, text) in [
        ("null", "{}", "data is the JSON null"),
        ("42", "{}", "data is the JSON number"),
        ("[1]", "{}", "data is the JSON array"),
        ("true", "{}", "data is the JSON boolean"),
        ("\"\"", "{}", "the text of the message is empty"),
        (r#"{"message":" \n"}"#, "{}", "the text of the message is empty"),
        ("\"x\"", r#"{"msgtype":"link"}"#, "metadata msgtype \"link\""),
        ("\"x\"", r#"{"atMobiles":"a b"}"#, "metadata atMobiles: item 1"),
        ("\"x\"", r#"{"atUserIds":"a,@b"}"#, "metadata atUserIds: item 2"),
        ("\"x\"", r#"{"isAtAll":"perhaps"}"#, "metadata isAtAll \"perhaps\""),
        ("{}", r#"{"msgUuid":""}"#, "metadata msgUuid is empty"),
    ] {
        assert_refused(&setup.create(data, metadata), text);
    }
    assert_refused(&setup.host.post("team", r#"{"operation":"create"}"#), "data is the JSON null");
    for (data, text) in [
        (b"".as_slice(), "data is empty"),
        (b" \r\n", "data is empty"),
        (b"ab\xff", "data is not UTF-8 (byte 3)"),
        (br#"{"path":"C:\Dir"}"#, "data starts like a JSON object and is none: invalid escape at line 1 column 13"),
        (br#"{"a":1} {}"#, "data starts like a JSON object and is none: trailing characters"),
    ] {
        let output = setup.invoke_file(data, &["--output", "json"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let json: Value = serde_json::from_str(&support::stdout(&output)).unwrap();
        assert_eq!(json["metadata"], json!({"error": "invalid-message", "outcome": "not-sent"}));
        assert!(json["error"].as_str().unwrap().contains(text), "{json}");
    }
    let stats = setup.robot.stats();
    assert_eq!((stats.connections, stats.requests), (0, 0));
    assert_eq!(setup.message("\"Hi\"", "{}"), text("Hi"));
}

#[track_caller]
fn assert_refused(reply: &Reply, text: &str) {
    assert_eq!((reply.status, reply.metadata("error")), (500, Some("invalid-message")), "{reply:?}");
    let json = reply.json();
    let message = json["message"].as_str().unwrap();
    assert!(message.contains(text) && message.ends_with("Nothing was sent"), "{text:?} is not in {message:?}");
}

/// `create` of a robot that takes any size, which DingTalk's does not.
fn arrives(data: &str, metadata: &str) -> Vec<u8> {
    let server = Witness::start();
    let url = server.url("/robot/send?access_token=x");
    let host = Host::serve(&Resources::binding("large", &[("id", "large"), ("url", &url)]));
    let reply = host.post("large", &format!(r#"{{"operation":"create","metadata":{metadata},"data":{data}}}"#));
    assert_eq!(reply.status, 200, "{metadata} {}…: {reply:?}", &data[..40]);
    server.received().pop().unwrap().body
}

/// A little below `--max-body-size`.
const LARGE: usize = (4 << 20) - 100;

#[test]
fn a_message_of_4_mib_arrives_whatever_it_consists_of() {
    let fill = |begin: &str, unit: &str, end: &str| {
        let times = (LARGE - begin.len() - end.len()) / unit.len();
        format!("{begin}{}{end}", unit.repeat(times))
    };
    for data in [
        fill("{\"msgtype\":\"text\",\"text\":{\"content\":\"", "x", "\"}}"),
        fill("{\"text\":\"", "\\u4f60", "\"}"),
        fill("{\"members\":0", ",\"\":0", "}"),
        fill("{\"members\":0", ",\"\\u0061\":0", "}"),
        fill("{\"items\":[0", ",0", "]}"),
    ] {
        assert!(arrives(&data, "{}") == data.as_bytes(), "{}… is altered", &data[..40]);
        let with_uuid = arrives(&data, r#"{"msgUuid":"u"}"#);
        let rest = with_uuid.strip_prefix(b"{\"msgUuid\":\"u\",".as_slice()).unwrap();
        assert!(rest == &data.as_bytes()[1..], "{}… is altered", &data[..40]);
    }
    let data = fill("{\"message\":\"", "\\u0001", "\"}");
    assert!(arrives(&data, r#"{"msgtype":"markdown"}"#).len() > LARGE);
}

#[test]
fn a_message_that_is_too_large_is_answered_and_harms_nothing() {
    let setup = Setup::new();
    let of = |size: usize| format!(r#"{{"msgtype":"text","text":{{"content":"{}"}}}}"#, "x".repeat(size));
    let reply = setup.create(&of(500_000), "{}");
    assert_eq!((reply.status, reply.metadata("errcode")), (500, Some("460101")), "{reply:?}");
    assert_eq!(setup.message("\"Hi\"", "{}"), text("Hi"));
    assert_ended_by_the_server(&setup.create(&of(LARGE - 100), "{}"));
    assert_eq!(setup.message("\"Hi\"", "{}"), text("Hi"));
    let reply = setup.create(&of(4 << 20), "{}");
    assert_eq!((reply.status, reply.json()["errorCode"].as_str()), (400, Some("ERR_MALFORMED_REQUEST")), "{reply:?}");
    assert_eq!(setup.message("\"Hi\"", "{}"), text("Hi"));
}

/// The simulator closes without reading more than 1 MiB; whether its answer survives that is up to TCP.
#[track_caller]
fn assert_ended_by_the_server(reply: &Reply) {
    assert_eq!(reply.status, 500, "{reply:?}");
    match reply.metadata("error") {
        Some("unexpected-answer.status") => assert_eq!(reply.metadata("statusCode"), Some("413"), "{reply:?}"),
        error => assert_eq!((error, reply.metadata("outcome")), (Some("unreachable"), Some("unknown")), "{reply:?}"),
    }
}

#[test]
fn nesting_however_deep_stops_nothing() {
    let setup = Setup::new();
    for levels in [100, 5_000, 100_000, 1_000_000] {
        let closed = format!(r#"{{"msgtype":"text","x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        for metadata in ["{}", r#"{"msgUuid":"u"}"#] {
            let reply = setup.create(&closed, metadata);
            match levels {
                1_000_000 => assert_ended_by_the_server(&reply),
                _ => assert_eq!((reply.status, reply.metadata("error")), (500, Some("rejected")), "{reply:?}"),
            }
        }
        for open in [format!(r#"{{"x":{}"#, "[".repeat(levels)), r#"{"a":"#.repeat(levels), "[".repeat(levels)] {
            assert_eq!(setup.create(&open, "{}").status, 400, "{levels}");
            let output = setup.invoke_file(open.as_bytes(), &[]);
            let (explained, stopped) =
                (stderr(&output).contains("like a JSON object and is none"), stderr(&output).contains("stopped"));
            // Brackets alone are text.
            assert_eq!((explained, stopped), (open.starts_with('{'), false), "{levels}: {}", stderr(&output));
        }
        assert_eq!(setup.message("\"Hi\"", "{}"), text("Hi"));
    }
}

#[test]
fn several_bindings_each_send_to_their_own_group() {
    let (one, two) = (Robot::start(), Robot::start());
    let of = |name: &str, robot: &Robot| {
        component(name, &[("id", name), ("url", &robot.url()), ("secret", support::SECRET)])
    };
    let resources = Resources::new().with("all.yaml", &format!("{}---\n{}", of("one", &one), of("two", &two)));
    let host = Host::serve(&resources);
    for count in 1..=3 {
        assert_eq!(host.invoke("two", "create", "\"for two\"").status, 200);
        assert_eq!((one.messages().len(), two.messages().len()), (0, count));
    }
}
