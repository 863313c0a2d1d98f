//! An event as a request to an application, in the form in which daprd makes it, and what the answer means.

pub mod application;
pub mod headers;

use std::fmt::Write;
use std::time::Duration;

use dingtalk_binding::endpoint::Endpoint;
use dingtalk_binding::json;
use dingtalk_binding::secret::{Secret, redact};
use http::uri::Authority;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::unread::Unread;

/// The longest answer. What an application has to say to a chat message has some KiB; an answer without end
/// must not fill the memory.
pub const MAX_ANSWER: usize = 1 << 20;

/// What cannot stand in a path or a query.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A route as the target of a request: rooted, cleaned like Go's `path.Clean`, and escaped where it is not yet.
pub fn target(route: &str) -> String {
    let (path, query) = match route.trim().split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (route.trim(), None),
    };
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            // Above the root is the root.
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut target = String::new();
    for segment in &segments {
        target.push('/');
        escape(segment, &mut target);
    }
    if segments.is_empty() {
        target.push('/');
    }
    if let Some(query) = query {
        target.push('?');
        escape(query, &mut target);
    }
    target
}

/// Escapes what needs it, `%` only where it does not begin an escape.
fn escape(text: &str, to: &mut String) {
    for (index, part) in text.split('%').enumerate() {
        if index > 0 {
            let escaped = part.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
            to.push_str(if escaped { "%" } else { "%25" });
        }
        // Writing to a String cannot fail.
        let _ = write!(to, "{}", utf8_percent_encode(part, ESCAPED));
    }
}

/// In the place of an answer that says no, where there is not all of it.
pub fn not_whole(why: Unread) -> String {
    match why {
        Unread::TooLong => format!("(longer than {} MiB)", MAX_ANSWER >> 20),
        // The beginning alone could be that of the token.
        Unread::Incomplete | Unread::TooSlow => "(it did not arrive as a whole)".to_owned(),
    }
}

/// An application has answered with a status that says no.
pub fn refused(status: u16, body: &str) -> String {
    format!("fails to send binding event to http app channel, status code: {status} body: {body}")
}

/// It has answered with too much.
pub fn too_long(application: &Authority) -> String {
    format!("the answer of {application} is longer than {} MiB; let it answer with less", MAX_ANSWER >> 20)
}

/// Its answer ended early.
pub fn broken_off(application: &Authority) -> String {
    format!("the answer of {application} broke off in its body; see the application's log")
}

/// It has given none.
pub fn closed(application: &Authority) -> String {
    format!("{application} closed the connection before it answered; see the application's log")
}

/// Its time, which `setting` sets, was up.
pub fn no_answer(application: &Authority, limit: Duration, setting: &str) -> String {
    format!("{application} has not answered within {limit:?}; let it answer sooner, or raise {setting}")
}

/// The text of an application's answer that says no, fit for a log line. Many servers repeat the request that they
/// could not take: what nobody may see of `event`, and the `token` sent with it, are blanked out.
pub fn refusal(body: &[u8], event: &[u8], token: Option<&Secret>) -> String {
    let sessions = sessions(event);
    redact(&String::from_utf8_lossy(body), token.into_iter().chain(&sessions).map(Secret::expose))
}

/// What must not be seen of the `sessionWebhook` in a message: whoever has it can post into the conversation.
pub fn sessions(event: &[u8]) -> Vec<Secret> {
    let mut secrets = Vec::new();
    let text = std::str::from_utf8(event).unwrap_or_default();
    // What is no object has no session.
    let _ = json::members(text, &mut |name, value| {
        if json::is(name, "sessionWebhook")
            && let Some(endpoint) = json::string(value).and_then(|webhook| Endpoint::parse(&webhook).ok())
        {
            secrets.extend(endpoint.secrets());
        }
    });
    secrets
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    // What Go's path.Clean makes of "/" + route, and url.Parse of the rest.
    fn routes_as_go_cleans_them() {
        for (route, expected) in [
            ("team", "/team"),
            ("/team", "/team"),
            ("a//b/", "/a/b"),
            ("a/./b/../c", "/a/c"),
            ("../../x", "/x"),
            ("/", "/"),
            (".", "/"),
            ("..", "/"),
            ("a/...", "/a/..."),
            ("events?key=a b/../c", "/events?key=a%20b/../c"),
            ("群/a b", "/%E7%BE%A4/a%20b"),
            ("a%2Fb%zz%", "/a%2Fb%25zz%25"),
            ("a#b", "/a%23b"),
            ("//evil.example/x", "/evil.example/x"),
            ("http://evil.example/x", "/http:/evil.example/x"),
        ] {
            assert_eq!(target(route), expected, "{route}");
        }
    }

    proptest! {
        #[test]
        fn any_route_is_a_target(route: String) {
            let target = target(&route);
            prop_assert!(target.starts_with('/') && !target.starts_with("//"));
            prop_assert!(target.parse::<http::uri::PathAndQuery>().is_ok_and(|parsed| parsed.as_str() == target), "{target}");
        }
    }
}
