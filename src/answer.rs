//! DingTalk's answer → success, or the reason why not.
//!
//! DingTalk answers refusals with HTTP 200; only `errcode` in the body tells. Everything that is not a
//! result is an error of its own here, because each has been taken for success by some client: HTML from a
//! proxy, the throttle page without an `errcode`, an empty body.
//!
//! Codes: DingTalk open platform, "custom robots" and "global error codes", and answers seen by users of
//! other clients (documentation: docs/errors.md).

use alloc::string::String;
use alloc::vec::Vec;

use serde_json::error::Category;

use crate::error::{AnswerError, InvokeCause, Rejection, RejectionClass, SecurityCheck};
use crate::{json, text};

/// The longest answer that is read. A result has 50 to 500 bytes; 64 KiB leaves room for the throttle page
/// without letting a hostile server fill the instance's memory.
pub const MAX_BODY: usize = 64 * 1024;

/// Milliseconds. "Above 20 messages a minute the robot is limited for 10 minutes."
const ROBOT_PENALTY: u64 = 600_000;
/// Milliseconds. "Wait one second."
const APP_THROTTLE: u64 = 1_000;
/// Milliseconds. The address stays blocked for five minutes.
const ADDRESS_PENALTY: u64 = 300_000;

/// What the transport received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// At most [`MAX_BODY`] + 1 bytes, the last one only to know that there was more.
    pub body: Vec<u8>,
    /// Whether the body arrived to its end.
    pub complete: bool,
}

/// DingTalk took the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// DingTalk's text, usually "ok".
    pub errmsg: String,
}

/// Decides what an answer means. `redact` is applied to every text of the answer that is repeated.
pub fn classify(answer: &Answer, redact: impl Fn(&str) -> String) -> Result<Accepted, InvokeCause> {
    if answer.status != 200 {
        return Err(InvokeCause::UnexpectedAnswer(AnswerError::Status(answer.status)));
    }
    let malformed = |what: &str| InvokeCause::UnexpectedAnswer(AnswerError::Malformed(what.into()));
    if answer.body.len() > MAX_BODY {
        return Err(InvokeCause::UnexpectedAnswer(AnswerError::Oversized(MAX_BODY as u64)));
    }
    let body = json::without_mark(&answer.body).trim_ascii();
    if body.first() == Some(&b'<') {
        return Err(InvokeCause::UnexpectedAnswer(AnswerError::Html));
    }
    if !answer.complete {
        return Err(InvokeCause::UnexpectedAnswer(AnswerError::Truncated));
    }
    if body.is_empty() {
        return Err(malformed("it is empty"));
    }
    let json = core::str::from_utf8(body).map_err(|_| malformed("it is not UTF-8"))?;
    let [errcode, errmsg, status] =
        json::find(json, ["errcode", "errmsg", "status"]).map_err(|error| match error.classify() {
            Category::Eof => InvokeCause::UnexpectedAnswer(AnswerError::Truncated),
            Category::Data => malformed("it is JSON, but not an object"),
            Category::Syntax | Category::Io => malformed("it is not JSON"),
        })?;
    let errcode = match errcode {
        None if status.and_then(integer) == Some(1111) => {
            return Err(InvokeCause::UnexpectedAnswer(AnswerError::Throttled(ADDRESS_PENALTY)));
        }
        None | Some("null") => return Err(InvokeCause::UnexpectedAnswer(AnswerError::MissingErrcode)),
        Some(errcode) => integer(errcode).ok_or_else(|| malformed("its errcode is not a whole number"))?,
    };
    let errmsg = errmsg.and_then(json::string).unwrap_or_default();
    let errmsg = errmsg.as_str();
    if errcode == 0 {
        return Ok(Accepted { errmsg: redact(errmsg) });
    }
    let Meaning { class, check, retry_after } = meaning(errcode, errmsg);
    Err(InvokeCause::Rejected(Rejection { errcode, errmsg: redact(errmsg), class, check, retry_after }))
}

/// A whole number, or one in quotes, as DingTalk's own documentation prints `errcode`.
fn integer(raw: &str) -> Option<i64> {
    raw.parse().ok().or_else(|| json::string(raw)?.trim().parse().ok())
}

/// What an error code asks of the caller.
struct Meaning {
    class: RejectionClass,
    check: Option<SecurityCheck>,
    retry_after: Option<u64>,
}

fn meaning(errcode: i64, errmsg: &str) -> Meaning {
    use RejectionClass as Class;
    let check = (errcode == 310_000).then(|| security_check(errmsg)).flatten();
    let class = match errcode {
        -1 => Class::Busy,
        // The one code for a message that cannot be parsed and for a token that is missing.
        40_035 if text::contains(errmsg, "参数 access_token") => Class::Configuration,
        // Message type, parameters, size, forbidden content.
        40_008 | 40_035 | 101_002 | 400_105 | 460_101 | 430_101..=430_104 => Class::Content,
        // Missing members of text, link, markdown, actionCard and feedCard messages.
        400_201 | 400_202 | 400_302..=400_304 | 400_402 | 400_403 | 400_503 | 400_602 => Class::Content,
        90_002 | 90_018 | 130_101 | 410_100 => Class::RateLimited,
        90_020 | 90_030 => Class::Quota,
        310_000 if check == Some(SecurityCheck::Keyword) => Class::Content,
        // Access, method, headers, token, group or robot gone, security settings.
        88 | 40_014 | 41_001 | 43_002..=43_005 | 43_009 | 300_001 | 300_005 | 310_000 => Class::Configuration,
        400_013 | 400_101 | 400_102 | 400_106 => Class::Configuration,
        _ => Class::Unknown,
    };
    let retry_after = match errcode {
        130_101 | 410_100 => Some(ROBOT_PENALTY),
        90_002 | 90_018 => Some(APP_THROTTLE),
        _ => None,
    };
    Meaning { class, check, retry_after }
}

/// Which setting refused, from the English texts of the documentation and the Chinese ones of today's
/// servers.
fn security_check(errmsg: &str) -> Option<SecurityCheck> {
    let has = |parts: &[&str]| parts.iter().any(|part| text::contains(errmsg, part));
    // "expired" before "mismatch": the solution in the text of an expired signature speaks of signatures too.
    if has(&["keywords not in content", "关键词"]) {
        Some(SecurityCheck::Keyword)
    } else if has(&["invalid timestamp", "签名过期", "timestampms"]) {
        Some(SecurityCheck::Timestamp)
    } else if has(&["sign not match", "签名不匹配"]) {
        Some(SecurityCheck::Signature)
    } else if has(&["not in whitelist", "白名单"]) {
        Some(SecurityCheck::IpAddress)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use super::*;
    use RejectionClass as Class;
    use proptest::prelude::*;

    fn answer(body: &str) -> Answer {
        Answer { status: 200, body: body.into(), complete: true }
    }

    fn outcome(body: &str) -> Result<Accepted, InvokeCause> {
        classify(&answer(body), str::to_owned)
    }

    fn rejection(errcode: i64, errmsg: &str) -> Rejection {
        match outcome(&serde_json::json!({"errcode": errcode, "errmsg": errmsg}).to_string()) {
            Err(InvokeCause::Rejected(rejection)) => rejection,
            other => panic!("{errcode}: {other:?}"),
        }
    }

    #[test]
    fn success_in_both_documented_spellings() {
        for body in [r#"{"errcode":0,"errmsg":"ok"}"#, r#"{"errcode":"0","errmsg":"ok"}"#] {
            assert_eq!(outcome(body), Ok(Accepted { errmsg: "ok".into() }), "{body}");
        }
        assert_eq!(outcome("\u{feff}{\"errcode\":0,\"errmsg\":\"ok\"}"), Ok(Accepted { errmsg: "ok".into() }));
        assert_eq!(outcome(r#"{"errcode":0}"#), Ok(Accepted { errmsg: String::new() }));
    }

    #[test]
    fn half_a_surrogate_pair_costs_no_text() {
        let ok = outcome(r#"{"errcode":0,"errmsg":"ok \ud800"}"#);
        assert_eq!(ok, Ok(Accepted { errmsg: "ok \u{fffd}".into() }));
        let Err(InvokeCause::Rejected(rejection)) = outcome(r#"{"errcode":310000,"errmsg":"关键词\udfff"}"#) else {
            panic!("not rejected");
        };
        assert_eq!((rejection.errmsg.as_str(), rejection.check), ("关键词\u{fffd}", Some(SecurityCheck::Keyword)));
    }

    #[test]
    fn what_is_no_result_is_never_success() {
        use AnswerError::*;
        let malformed = |what: &str| Malformed(what.into());
        for (body, expected) in [
            ("", malformed("it is empty")),
            ("\u{feff} ", malformed("it is empty")),
            ("\u{feff}ok", malformed("it is not JSON")),
            (" \n", malformed("it is empty")),
            ("ok", malformed("it is not JSON")),
            ("null", malformed("it is JSON, but not an object")),
            ("[0]", malformed("it is JSON, but not an object")),
            ("{}", MissingErrcode),
            (r#"{"errcode":null}"#, MissingErrcode),
            (r#"{"errmsg":"ok"}"#, MissingErrcode),
            (r#"{"errcode":true}"#, malformed("its errcode is not a whole number")),
            (r#"{"errcode":0.5}"#, malformed("its errcode is not a whole number")),
            (r#"{"errcode":"zero"}"#, malformed("its errcode is not a whole number")),
            (r#"{"errcode":0,"errm"#, Truncated),
            ("<html>", Html),
            ("\u{feff} <!DOCTYPE html>", Html),
            (r#"{"status":1111,"wait":5,"source":"x5","punish":"deny"}"#, Throttled(ADDRESS_PENALTY)),
            (r#"{"status":"1111"}"#, Throttled(ADDRESS_PENALTY)),
            (r#"{"status":1112}"#, MissingErrcode),
        ] {
            assert_eq!(outcome(body), Err(InvokeCause::UnexpectedAnswer(expected)), "{body}");
        }
    }

    #[test]
    fn status_size_and_completeness() {
        let ok = r#"{"errcode":0,"errmsg":"ok"}"#;
        for status in [100, 199, 201, 204, 302, 307, 404, 429, 500, 503] {
            let answer = Answer { status, ..answer(ok) };
            let expected = InvokeCause::UnexpectedAnswer(AnswerError::Status(status));
            assert_eq!(classify(&answer, str::to_owned), Err(expected));
        }
        let cut = Answer { complete: false, ..answer(ok) };
        assert_eq!(classify(&cut, str::to_owned), Err(InvokeCause::UnexpectedAnswer(AnswerError::Truncated)));
        let padded = |len: usize| Answer { body: [ok.as_bytes(), &vec![b' '; len - ok.len()]].concat(), ..answer("") };
        assert!(classify(&padded(MAX_BODY), str::to_owned).is_ok());
        let oversized = InvokeCause::UnexpectedAnswer(AnswerError::Oversized(65_536));
        assert_eq!(classify(&padded(MAX_BODY + 1), str::to_owned), Err(oversized));
    }

    /// Code, a text that belongs to it, class and time to wait of each row of the documentation.
    fn documented() -> Vec<(i64, String, String, Option<u64>)> {
        let lines = include_str!("../docs/errors.md").lines();
        let table = lines.skip_while(|line| !line.starts_with("| code |")).skip(2).take_while(|line| !line.is_empty());
        let mut rows = Vec::new();
        for line in table {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let (code, text) = match cells[1].split_once(" with `") {
                Some((code, text)) => (code, text.strip_suffix("` in the text").unwrap()),
                None => (cells[1], "another text"),
            };
            let class = cells[3].trim_matches('`').to_owned();
            let wait = cells[4].strip_suffix(" s").map(|seconds| seconds.parse().unwrap());
            // Success has no class, and the answer to "reply" is an error of its own.
            if code != "0" && code != "300001, answering `reply`" {
                rows.push((code.parse().unwrap(), text.to_owned(), class, wait));
            }
        }
        rows
    }

    #[test]
    fn codes_mean_what_their_documentation_says_and_none_is_left_out() {
        let documented = documented();
        assert!(documented.len() > 40, "{documented:?}");
        for (errcode, text, class, wait) in &documented {
            let found = rejection(*errcode, text);
            let wait = wait.map(|seconds| seconds * 1_000);
            assert_eq!((found.class.name(), found.retry_after), (class.as_str(), wait), "{errcode} {text}");
            assert_ne!(found.class, Class::Unknown, "{errcode} need not be listed");
        }
        let known = (-1_000..1_000_000).filter(|errcode| meaning(*errcode, "another text").class != Class::Unknown);
        assert_eq!(known.collect::<BTreeSet<_>>(), documented.iter().map(|(errcode, ..)| *errcode).collect());
        assert_eq!(rejection(40_035, "不合法的参数 https://h/?access_token=x").class, Class::Content);
    }

    #[test]
    fn the_checks_of_310000_are_recognised_as_documented_in_the_same_order() {
        let lines = include_str!("../docs/errors.md").lines();
        let table = lines.skip_while(|line| !line.starts_with("| order |")).skip(2).take_while(|line| !line.is_empty());
        let rows: Vec<Vec<&str>> = table.map(|line| line.split('|').map(str::trim).collect()).collect();
        assert_eq!(rows.len(), 5);
        for (index, cells) in rows.iter().enumerate() {
            let texts: Vec<&str> = cells[4].split('`').skip(1).step_by(2).collect();
            assert_eq!(texts.is_empty(), cells[1] == "–", "{cells:?}");
            for text in texts.iter().copied().chain(Some("another text").filter(|_| texts.is_empty())) {
                // After everything that comes later in the order.
                let later: Vec<&str> =
                    rows[index + 1..].iter().flat_map(|row| row[4].split('`').skip(1).step_by(2)).collect();
                let found = rejection(310_000, &format!("{} {text}", later.join(" ")));
                let check = found.check.map_or("(none)", SecurityCheck::name);
                assert_eq!(
                    (check, found.class.name()),
                    (cells[2].trim_matches('`'), cells[3].trim_matches('`')),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn the_four_meanings_of_310000() {
        use SecurityCheck::*;
        for (errmsg, check) in [
            ("keywords not in content", Some(Keyword)),
            ("keywords not in content, more: [https://ding-doc.dingtalk.com/doc#/serverapi2/qf2nxq]", Some(Keyword)),
            (
                "description:关键词不匹配;solution:请联系群管理员查看此机器人的关键词，并在发送的信息中包含此关键词;",
                Some(Keyword),
            ),
            ("错误描述:关键词不匹配;解决方案:请联系群管理员", Some(Keyword)),
            ("sign not match", Some(Signature)),
            (
                "description:机器人发送签名不匹配;solution:请确认签名和生成签名的时间戳必须都放在调用的网址中，请确认机器人的密钥加密和填写正确;",
                Some(Signature),
            ),
            ("invalid timestamp", Some(Timestamp)),
            (
                "description:机器人发送签名过期;solution:签名生成时间和发送时间请保持在 timestampms 以内;",
                Some(Timestamp),
            ),
            ("ip 1.2.3.4 not in whitelist", Some(IpAddress)),
            ("description:ip 不在白名单中;solution:请联系对应群的管理员，设置机器人安全ip地址段", Some(IpAddress)),
            ("something new", None),
        ] {
            let rejection = rejection(310_000, errmsg);
            assert_eq!(rejection.check, check, "{errmsg}");
            let class = if check == Some(Keyword) { Class::Content } else { Class::Configuration };
            assert_eq!(rejection.class, class, "{errmsg}");
        }
        assert_eq!(rejection(400_102, "sign not match").check, None);
    }

    proptest! {
        /// Nothing but an object with errcode 0 (number or text) is success.
        #[test]
        fn success_needs_errcode_zero(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let answer = Answer { status: 200, body, complete: true };
            prop_assert!(classify(&answer, str::to_owned).is_err());
        }

        #[test]
        fn any_errcode_comes_back(errcode: i64, errmsg in ".{0,50}") {
            prop_assume!(errcode != 0);
            let found = rejection(errcode, &errmsg);
            prop_assert_eq!((found.errcode, found.errmsg), (errcode, errmsg));
        }
    }
}
