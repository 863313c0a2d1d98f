use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn policy(too_long: &str, keywords: &str) -> Policy {
    Policy::parse(Some(too_long), Some(keywords)).unwrap()
}

fn create(data: &str, metadata: &[(&str, &str)]) -> InvokeRequest {
    InvokeRequest {
        operation: "create".into(),
        data: data.into(),
        metadata: metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    }
}

fn applied(policy: &Policy, data: &str, metadata: &[(&str, &str)]) -> Result<Vec<Value>, String> {
    let parts = policy.apply(create(data, metadata))?;
    Ok(parts.iter().map(|part| serde_json::from_slice(&part.data).unwrap()).collect())
}

fn text(content: &str) -> String {
    json!({"msgtype": "text", "text": {"content": content}}).to_string()
}

#[test]
fn what_fits_is_the_same_to_the_byte() {
    let policy = policy("split", "alert");
    for data in [
        r#" {"msgtype" : "text","text":{"content":"an alert"}, "x":12345678901234567890 }"#,
        "\"alert\"",
        "alert",
        "[1]",
        "{",
    ] {
        let request = create(data, &[("msgUuid", "u"), ("title", "t")]);
        assert_eq!(policy.apply(request.clone()), Ok(vec![request]), "{data}");
    }
    let request = create(&text(&"x".repeat(30_000)), &[]);
    assert_eq!(Policy::default().apply(request.clone()), Ok(vec![request]), "without a property, DingTalk decides");
}

#[test]
fn a_keyword_that_is_missing_is_added_or_the_message_refused() {
    let policy = policy("", "alert, 告警");
    let content = |data: &str, metadata: &[(&str, &str)]| applied(&policy, data, metadata).unwrap();
    assert_eq!(content(&text("disk full "), &[])[0]["text"]["content"], "disk full\nalert");
    assert_eq!(content("\"磁盘告警\"", &[]), [json!("磁盘告警")], "untouched");
    let markdown = content("\"disk\"", &[("msgtype", "markdown"), ("title", "t"), ("msgUuid", "u")]);
    assert_eq!(
        markdown,
        [json!({"msgtype": "markdown", "markdown": {"title": "t", "text": "disk\n\nalert"}, "msgUuid": "u"})]
    );
    let link = json!({"msgtype": "link", "link": {"title": "t", "text": "x", "messageUrl": "http://h"}}).to_string();
    let error = applied(&policy, &link, &[]).unwrap_err();
    assert!(error.contains("none of the robot's keywords") && error.contains("put one into it"), "{error}");
    // A name in `at` or an id is no text of the message.
    let hidden =
        json!({"msgtype": "text", "text": {"content": "x"}, "msgUuid": "alert", "at": {"atUserIds": ["alert"]}});
    assert_eq!(content(&hidden.to_string(), &[])[0]["text"]["content"], "x\nalert");
}

#[test]
fn a_long_message_is_refused_cut_or_sent_in_parts() {
    let long = text(&"word ".repeat(10_000));
    for (data, metadata) in [(long.as_str(), ""), ("\"x\"", "y")] {
        let title = metadata.repeat(20_000);
        let error = applied(&policy("refuse", ""), data, &[("msgtype", "markdown"), ("title", &title)]).unwrap_err();
        assert!(error.contains("DingTalk takes 20000; make it shorter"), "{error}");
    }
    let cut = applied(&policy("truncate", ""), &long, &[]).unwrap();
    let content = cut[0]["text"]["content"].as_str().unwrap();
    assert!(cut.len() == 1 && content.ends_with("word …") && content.len() > 19_000, "{}", content.len());
    let parts = applied(&policy("split", ""), &long, &[("msgUuid", "u")]).unwrap();
    assert_eq!(parts.len(), 3);
    for (index, part) in parts.iter().enumerate() {
        let content = part["text"]["content"].as_str().unwrap();
        assert!(content.starts_with(&format!("({}/3)\nword ", index + 1)), "{}", &content[..20]);
        assert_eq!(part["msgUuid"], format!("u-{}", index + 1));
    }
}

#[test]
fn what_cannot_be_made_shorter_is_refused() {
    let link = json!({"msgtype": "link", "link": {"title": "t", "text": "x".repeat(20_000), "messageUrl": "http://h"}});
    let error = applied(&policy("split", ""), &link.to_string(), &[]).unwrap_err();
    assert!(error.contains("cannot be made shorter"), "{error}");
    let error = applied(&policy("split", ""), &text(&"x".repeat(500_000)), &[]).unwrap_err();
    assert!(error.contains("more than 20 messages"), "{error}");
    let people: Vec<String> = (0..2_000).map(|number| format!("user{number}")).collect();
    let crowd = json!({"msgtype": "text", "text": {"content": "x".repeat(9_000)}, "at": {"atUserIds": people}});
    let error = applied(&policy("split", ""), &crowd.to_string(), &[]).unwrap_err();
    assert!(error.contains("beside its text"), "{error}");
}

#[test]
fn what_is_refused_is_refused_with_the_keyword_that_it_would_get() {
    let frame = text("").len();
    let exact = text(&"x".repeat(LARGEST - frame));
    assert!(applied(&policy("refuse", ""), &exact, &[]).is_ok());
    let error = applied(&policy("refuse", "alert"), &exact, &[]).unwrap_err();
    assert!(error.contains("make it shorter"), "{error}");
}

#[test]
fn no_part_is_too_long_because_of_what_stands_beside_its_text() {
    let people: Vec<String> = (0..50).map(|number| format!("1380013800{number}")).collect();
    let at = json!({"atMobiles": people, "isAtAll": true});
    let pretty = format!(
        "{{\"msgtype\":\"text\",\"text\":{{\"content\":{}}},\"at\":{}{},\"msgUuid\":12345}}",
        json!("word ".repeat(9_000)),
        serde_json::to_string_pretty(&at).unwrap().replace('{', "{          "),
        " ".repeat(2_000),
    );
    for how in ["split", "truncate"] {
        let parts = policy(how, "").apply(create(&pretty, &[])).unwrap();
        for (index, part) in parts.iter().enumerate() {
            assert!(part.data.len() <= LARGEST, "{how}: {}", part.data.len());
            let part: Value = serde_json::from_slice(&part.data).unwrap();
            let uuid = if how == "split" { json!(format!("12345-{}", index + 1)) } else { json!(12345) };
            assert_eq!(part["msgUuid"], uuid);
        }
    }
}

#[test]
fn everybody_is_called_once_and_somebody_where_the_name_stands() {
    let long = json!({
        "msgtype": "markdown", "markdown": {"title": "t", "text": "line\n".repeat(6_000)},
        "at": {"isAtAll": true, "atMobiles": ["180"]},
    });
    let parts = applied(&policy("split", "line"), &long.to_string(), &[]).unwrap();
    let called: Vec<_> = parts.iter().map(|part| part["at"]["isAtAll"].as_bool().unwrap()).collect();
    assert!(called.len() > 1 && called[0] && !called[1..].contains(&true), "{called:?}");
    assert!(parts.iter().all(|part| part["at"]["atMobiles"] == json!(["180"])));
    assert_eq!(parts[1]["markdown"]["title"], format!("t (2/{})", parts.len()));
}

#[test]
fn properties_that_are_wrong_say_so() {
    let error = |too_long, keywords| Policy::parse(Some(too_long), Some(keywords)).unwrap_err();
    assert!(error("cut", "").contains("tooLong"));
    assert!(error("", "a,b,c,d,e,f,g,h,i,j,k").contains("more than 10"));
    assert!(error("", &"x".repeat(300)).contains("256 bytes"));
    assert_eq!(Policy::parse(None, Some(" , ")), Ok(Policy::default()));
}

proptest! {
    /// Whatever the message is, each body is within the limit, has a keyword, and loses no text.
    #[test]
    fn every_body_fits(
        pieces in prop::collection::vec(prop_oneof!["[a-z ]{1,40}", "\n{1,2}", "[你好\"\\\\\u{1}]{1,40}", Just("```\n".to_owned())], 0..60),
        times in 1..40_usize, markdown: bool, keyword: bool, cut: bool,
    ) {
        let content = pieces.concat().repeat(times);
        let kind = if markdown { "markdown" } else { "text" };
        let body = if markdown { json!({"title": "t", "text": content}) } else { json!({"content": content}) };
        let data = json!({"msgtype": kind, kind: body}).to_string();
        let policy = policy(if cut { "truncate" } else { "split" }, if keyword { "KEY" } else { "" });
        if let Ok(parts) = policy.apply(create(&data, &[])) {
            for part in &parts {
                prop_assert!(part.data.len() <= LARGEST, "{}", part.data.len());
                let part: Value = serde_json::from_slice(&part.data).unwrap();
                let text = part[kind][if markdown { "text" } else { "content" }].as_str().unwrap();
                prop_assert!(!keyword || text.contains("KEY"));
            }
            prop_assert!(!cut || parts.len() == 1);
        }
    }
}
