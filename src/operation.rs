//! One operation from request to response, without the sending: [`prepare`] says what to post, the transport
//! posts it, [`conclude`] says what the answer means.

use std::fmt;
use std::time::Duration;

use crate::answer::{self, Accepted, Answer};
use crate::endpoint::{Scheme, SentSignature};
use crate::error::Error;
use crate::message::{self, Options};
use crate::secret;
use crate::settings::Settings;

/// The operations, in the specification's order.
pub const OPERATIONS: [&str; 2] = ["create", "get"];

/// One HTTP request to the robot, complete. Its `Debug` output shows neither target nor body.
pub struct Post {
    /// How to connect.
    pub scheme: Scheme,
    /// The host alone, for texts.
    pub host: String,
    /// Host and, where the URL has one, port.
    pub authority: String,
    /// Path and query, signed.
    pub target: String,
    /// The message.
    pub body: Vec<u8>,
    /// Time for the exchange in all.
    pub timeout: Duration,
    /// Time to connect.
    pub connect_timeout: Duration,
    signature: Option<SentSignature>,
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "POST {}://{}/[redacted], {} bytes", self.scheme.as_str(), self.authority, self.body.len())
    }
}

/// What to post for `operation`, signed for `now` (milliseconds since the Unix epoch).
pub fn prepare<'a>(
    settings: &Settings,
    operation: &str,
    data: &[u8],
    metadata: impl IntoIterator<Item = (&'a str, &'a str)>,
    now: u64,
) -> Result<Post, Error> {
    match operation {
        "create" => {}
        // This version has no input side, so nothing can have asked for messages.
        "get" => return Err(Error::NotReading(settings.id.clone())),
        _ => return Err(Error::UnsupportedOperation(OPERATIONS.map(str::to_owned).to_vec())),
    }
    let options = Options::parse(metadata).map_err(Error::InvalidMessage)?;
    let body = message::shape(data, &options).map_err(Error::InvalidMessage)?;
    let signature = settings.secret.as_ref().map(|secret| SentSignature::new(secret, now));
    Ok(Post {
        scheme: settings.endpoint.origin().scheme(),
        host: settings.endpoint.origin().host().to_owned(),
        authority: settings.endpoint.authority().to_owned(),
        target: settings.endpoint.target(signature.as_ref()),
        body,
        timeout: settings.timeout,
        connect_timeout: settings.connect_timeout,
        signature,
    })
}

/// What the answer to `post` means: response metadata, or the error.
pub fn conclude(settings: &Settings, post: &Post, answer: &Answer) -> Result<Vec<(String, String)>, Error> {
    let redact = |text: &str| {
        // Nearly every answer's text, and never a secret; the rest costs as much as signing.
        if text == "ok" {
            return text.to_owned();
        }
        let url = settings.endpoint.secrets();
        let secret = settings.secret.as_ref();
        let signature = post.signature.iter().flat_map(SentSignature::secrets);
        secret::redact(text, url.iter().chain(secret).map(|s| s.expose()).chain(signature))
    };
    let Accepted { errmsg } = answer::classify(answer, redact)?;
    let metadata = [("statusCode", "200"), ("errcode", "0"), ("errmsg", &errmsg)];
    Ok(metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const OK: &str = r#"{"errcode":0,"errmsg":"ok"}"#;

    fn settings(secret: &str) -> Settings {
        Settings::parse([("id", "team"), ("url", "https://h/p?access_token=T0K3N%2B"), ("secret", secret)]).unwrap()
    }

    fn answer(body: &str) -> Answer {
        Answer { status: 200, body: body.into(), complete: true }
    }

    #[test]
    fn a_signed_post() {
        let post = prepare(&settings("secret"), "create", b"{}", [], NOW).unwrap();
        assert_eq!(
            post.target,
            "/p?access_token=T0K3N%2B&timestamp=1700000000000&sign=OuzzJR5%2BxZ4%2FEYwqtNt6sMYZQMTa%2FHEGvc9miJe7XzY%3D"
        );
        assert_eq!(format!("{post:?}"), "POST https://h/[redacted], 2 bytes");
        let unsigned = prepare(&settings(""), "create", b"{}", [], NOW).unwrap();
        assert_eq!(unsigned.target, "/p?access_token=T0K3N%2B");
    }

    #[test]
    fn the_operations() {
        let fails = |operation| prepare(&settings(""), operation, b"{}", [], NOW).unwrap_err();
        assert_eq!(fails("get"), Error::NotReading("team".into()));
        assert!(fails("get").to_string().contains("invalid component metadata.id team"));
        for operation in ["", "Create", "delete", "list"] {
            assert_eq!(fails(operation), Error::UnsupportedOperation(vec!["create".into(), "get".into()]));
        }
    }

    #[test]
    fn success_tells_what_dingtalk_said() {
        let settings = settings("secret");
        let post = prepare(&settings, "create", b"{}", [], NOW).unwrap();
        let metadata = conclude(&settings, &post, &answer(OK)).unwrap();
        let metadata: Vec<(&str, &str)> = metadata.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(metadata, [("statusCode", "200"), ("errcode", "0"), ("errmsg", "ok")]);
    }

    #[test]
    fn an_echo_of_the_request_shows_nothing_secret() {
        let settings = settings("S3CR3T");
        let post = prepare(&settings, "create", b"{}", [], NOW).unwrap();
        let signature = crate::signature::sign("S3CR3T", NOW);
        let echo = format!("bad request {} S3CR3T {signature} T0K3N+ T0K3N%2B", post.target);
        for errcode in [0, 310_000] {
            let body = serde_json::json!({"errcode": errcode, "errmsg": echo}).to_string();
            let text = format!("{:?}", conclude(&settings, &post, &answer(&body)));
            let encoded = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
            for secret in ["S3CR3T", "T0K3N", signature.as_str(), encoded.as_str()] {
                assert!(!text.contains(secret), "{text}");
            }
        }
    }
}
