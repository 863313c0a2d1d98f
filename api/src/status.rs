//! The HTTP status of a failed operation: Dapr's, which is 500 for all of them, or one that other programs understand.
//!
//! Alertmanager sends again after each 5xx and after nothing else, and is not alone in that. With 500 for everything, such
//! programs repeat what can never pass. So in the form [`ErrorStatus::Http`] a 5xx means that the same call may succeed later,
//! and a 4xx that it will not.

use dingtalk_binding::contract;
use http::StatusCode;

/// Which form a failed operation's status has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ErrorStatus {
    /// 500, whatever it is.
    #[default]
    Dapr,
    /// By what happened.
    Http,
}

/// The request header by which a call chooses.
pub const HEADER: &str = "dingtalk-error-status";

impl ErrorStatus {
    /// Reads `dapr` or `http`. The error is meant to follow the name of what was read.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text.trim() {
            "dapr" => Ok(Self::Dapr),
            "http" => Ok(Self::Http),
            _ => Err("is neither \"dapr\" nor \"http\""),
        }
    }

    /// The status of a failure with this metadata, and after how many seconds the call may be made again.
    pub fn of(self, metadata: &[(String, String)]) -> (StatusCode, Option<u64>) {
        match self {
            Self::Dapr => (StatusCode::INTERNAL_SERVER_ERROR, None),
            Self::Http => by_failure(metadata),
        }
    }
}

/// When it is not known how long to wait, in seconds: after what passes in a moment.
const MOMENT: u64 = 1;

fn by_failure(metadata: &[(String, String)]) -> (StatusCode, Option<u64>) {
    let item =
        |wanted: &str| contract::pairs(metadata).find(|(name, _)| *name == wanted).map_or("", |(_, value)| value);
    let wait = item("retryAfter").parse::<u64>().ok().map(|millis| millis.div_ceil(1_000).max(MOMENT));
    let status = match (item("error"), item("class")) {
        ("missing-operation" | "unsupported-operation" | "invalid-message" | "invalid-session-webhook", _) => {
            StatusCode::BAD_REQUEST
        }
        ("not-found", _) => StatusCode::NOT_FOUND,
        // Another message has its msgUuid, or it was given up: it stays so.
        ("repeated", _) => StatusCode::CONFLICT,
        ("expired-session-webhook", _) => StatusCode::GONE,
        ("rejected", "content") => StatusCode::BAD_REQUEST,
        ("rejected" | "withheld", "configuration") => configuration(item("errcode"), item("check")),
        // Not this month: who sends again after a 5xx would do so until then.
        ("rejected" | "withheld", "quota") => StatusCode::TOO_MANY_REQUESTS,
        ("rejected" | "withheld", "rate-limited" | "busy") => StatusCode::SERVICE_UNAVAILABLE,
        // The disk is full, or what is noted there cannot be.
        ("outbox-unavailable", _) | ("withheld", "unavailable") => StatusCode::SERVICE_UNAVAILABLE,
        ("overloaded" | "not-reading" | "unexpected-answer.throttled", _) => StatusCode::SERVICE_UNAVAILABLE,
        ("unreachable", _) if item("outcome") == "unknown" => StatusCode::GATEWAY_TIMEOUT,
        ("unreachable" | "rejected" | "handler-failed", _) => StatusCode::BAD_GATEWAY,
        (error, _) if error.starts_with("unexpected-answer.") => StatusCode::BAD_GATEWAY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    // Of a message in parts, some have been posted: what says "later" of one part must not have all of them sent again.
    if !item("part").is_empty() && status == StatusCode::SERVICE_UNAVAILABLE {
        return (StatusCode::BAD_GATEWAY, None);
    }
    let wait = match status {
        StatusCode::SERVICE_UNAVAILABLE => Some(wait.unwrap_or(MOMENT)),
        _ => wait,
    };
    (status, wait)
}

/// What is wrong with the robot or the way to it.
fn configuration(errcode: &str, check: &str) -> StatusCode {
    match (errcode, check) {
        (_, "signature" | "timestamp") | ("88", _) => StatusCode::UNAUTHORIZED,
        // Token, group or robot is not there.
        ("40014" | "40035" | "41001" | "300001" | "300005" | "400013" | "400101" | "400106", _) => {
            StatusCode::NOT_FOUND
        }
        _ => StatusCode::FORBIDDEN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `error`, and other items in the form `name=value`.
    fn of(items: &str) -> (u16, Option<u64>) {
        let items = items.split(' ').map(|item| item.split_once('=').unwrap_or(("error", item)));
        let metadata: Vec<_> = items.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(ErrorStatus::Dapr.of(&metadata), (StatusCode::INTERNAL_SERVER_ERROR, None));
        let (status, wait) = ErrorStatus::Http.of(&metadata);
        (status.as_u16(), wait)
    }

    #[test]
    fn a_4xx_will_not_pass_and_a_5xx_may() {
        for (items, expected) in [
            ("missing-operation", (400, None)),
            ("unsupported-operation", (400, None)),
            ("not-found", (404, None)),
            ("invalid-message", (400, None)),
            ("invalid-session-webhook", (400, None)),
            ("expired-session-webhook", (410, None)),
            ("rejected class=content errcode=310000 check=keyword", (400, None)),
            ("rejected class=configuration errcode=310000 check=signature", (401, None)),
            ("rejected class=configuration errcode=310000 check=timestamp", (401, None)),
            ("rejected class=configuration errcode=310000 check=ip-address", (403, None)),
            ("rejected class=configuration errcode=310000", (403, None)),
            ("rejected class=configuration errcode=300005", (404, None)),
            ("rejected class=configuration errcode=400102", (403, None)),
            ("withheld class=configuration errcode=300005 retryAfter=3600000", (404, Some(3_600))),
            ("rejected class=quota errcode=90030", (429, None)),
            ("withheld class=configuration errcode=310000 check=signature retryAfter=1", (401, Some(1))),
            ("withheld class=quota errcode=90030 retryAfter=1", (429, Some(1))),
            // The host's own count of the month, which has no code of DingTalk's.
            ("withheld class=quota retryAfter=259200000", (429, Some(259_200))),
            ("withheld class=unavailable retryAfter=5000", (503, Some(5))),
            ("repeated", (409, None)),
            ("outbox-unavailable", (503, Some(1))),
            ("withheld class=unavailable retryAfter=5000 outcome=unknown part=2 parts=3", (502, None)),
            ("rejected class=rate-limited errcode=130101 retryAfter=600000", (503, Some(600))),
            ("withheld class=rate-limited retryAfter=1001", (503, Some(2))),
            ("rejected class=busy errcode=-1", (503, Some(1))),
            ("withheld class=rate-limited retryAfter=1 outcome=unknown part=3 parts=4", (502, None)),
            ("rejected class=content outcome=unknown part=3 parts=4", (400, None)),
            ("rejected class=unknown errcode=7", (502, None)),
            ("overloaded", (503, Some(1))),
            ("not-reading", (503, Some(1))),
            ("handler-failed outcome=unknown", (502, None)),
            ("unreachable outcome=not-sent", (502, None)),
            ("unreachable outcome=unknown", (504, None)),
            ("unexpected-answer.html outcome=unknown", (502, None)),
            ("unexpected-answer.throttled retryAfter=300000", (503, Some(300))),
            ("stopped outcome=not-sent", (500, None)),
            ("configuration property=url", (500, None)),
        ] {
            assert_eq!(of(items), expected, "{items}");
        }
    }

    /// Every error that is documented has its status there.
    #[test]
    fn the_documentation_has_each_status() {
        let lines = include_str!("../../docs/errors.md").lines();
        let table =
            lines.skip_while(|line| !line.starts_with("| `error` |")).skip(2).take_while(|line| !line.is_empty());
        let rows: Vec<Vec<&str>> = table.map(|line| line.split('|').map(str::trim).collect()).collect();
        assert!(rows.len() > 20);
        for row in rows {
            let (name, posted, documented) = (row[1].trim_matches('`'), row[4], row[5]);
            let outcome = if posted.starts_with("perhaps") { "unknown" } else { "not-sent" };
            let (status, _) = of(&format!("{name} outcome={outcome}"));
            assert!(documented.contains(&status.to_string()) || name == "rejected" || name == "withheld", "{row:?}");
        }
    }

    #[test]
    fn the_forms_by_name() {
        assert_eq!([" http", "dapr"].map(ErrorStatus::parse), [Ok(ErrorStatus::Http), Ok(ErrorStatus::Dapr)]);
        assert!(ErrorStatus::parse("500").is_err());
    }
}
