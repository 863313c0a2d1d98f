//! One operation from request to response, without what happens outside: [`prepare`] says what to post or to hand on,
//! the transport posts it, [`conclude`] says what the answer means; a handler takes it, [`handed_on`] says how that went.

use alloc::borrow::Cow;
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::answer::{self, Accepted, Answer};
use crate::contract::{self, Event, InvokeRequest};
use crate::endpoint::{Endpoint, SentSignature};
use crate::error::{HandlerError, InvokeCause, Rejection};
use crate::json;
use crate::message::{self, Options};
use crate::secret;
use crate::session::Session;
use crate::settings::Settings;
use crate::signature::Signer;

/// The operations: the specification's in its order, then the additions.
pub const OPERATIONS: [&str; 3] = ["create", "get", "reply"];

/// The name in an event's metadata that says which operation it comes from. No callback has it.
const OPERATION: &str = "operation";

/// One HTTP request to DingTalk, complete. Its `Debug` output shows neither target nor body.
pub struct Post<'a> {
    /// Where it goes.
    pub endpoint: Cow<'a, Endpoint>,
    /// Path and query, signed.
    pub target: String,
    /// The message.
    pub body: Vec<u8>,
    /// Time for the exchange in all.
    pub timeout: Duration,
    /// Time to connect.
    pub connect_timeout: Duration,
    signature: Option<SentSignature>,
    /// Whether it goes to the session of a message.
    is_reply: bool,
}

impl fmt::Debug for Post<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "POST {:?}, {} bytes", self.endpoint, self.body.len())
    }
}

/// What to post for `request` at `now` (milliseconds since the Unix epoch), to a binding that is `reading` or not;
/// nothing for "get", whose data and metadata are handed to the handler.
pub fn prepare<'s>(
    settings: &'s Settings,
    reading: bool,
    request: &InvokeRequest,
    now: u64,
) -> Result<Option<Post<'s>>, InvokeCause> {
    let InvokeRequest { operation, data, metadata } = request;
    let metadata = contract::pairs(metadata);
    let (endpoint, secret) = match operation.as_str() {
        "create" => (Cow::Borrowed(&settings.endpoint), settings.secret.as_ref()),
        "get" if reading => return Ok(None),
        "get" => return Err(InvokeCause::NotReading(settings.id.clone())),
        // Who has the session's address needs no signature.
        "reply" => {
            let session = Session::find(metadata.clone()).endpoint(&settings.session_webhooks, now)?;
            (Cow::Owned(session), None)
        }
        _ => return Err(InvokeCause::UnsupportedOperation(OPERATIONS.map(str::to_owned).to_vec())),
    };
    let options = Options::parse(metadata).map_err(InvokeCause::InvalidMessage)?;
    let body = message::shape(data, &options).map_err(InvokeCause::InvalidMessage)?;
    let signature = secret.map(|secret| SentSignature::new(secret, now));
    Ok(Some(Post {
        target: endpoint.target(signature.as_ref()),
        endpoint,
        body,
        timeout: settings.timeout,
        connect_timeout: settings.connect_timeout,
        signature,
        is_reply: operation == "reply",
    }))
}

/// Whether a call has a `msgUuid`, in its metadata or its message: then DingTalk shows the message once, however
/// often it is sent.
pub fn has_uuid<'a>(data: &[u8], metadata: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
    const NAME: &str = "msgUuid";
    metadata.into_iter().any(|(name, value)| name.eq_ignore_ascii_case(NAME) && !value.trim().is_empty())
        || core::str::from_utf8(json::without_mark(data))
            // Most messages have none, and need not be parsed for that.
            .is_ok_and(|text| {
                text.contains(NAME)
                    && matches!(json::find(text, [NAME]), Ok([Some(uuid)]) if uuid.len() > 2 && uuid != "null")
            })
}

/// What the answer to `post` means: response metadata, or the error.
pub fn conclude(settings: &Settings, post: &Post<'_>, answer: &Answer) -> Result<Vec<(String, String)>, InvokeCause> {
    let redact = |text: &str| {
        // Nearly every answer's text, and never a secret; the rest costs as much as signing.
        if text == "ok" {
            return text.to_owned();
        }
        let url = post.endpoint.secrets();
        let secret = settings.secret.as_ref().map(Signer::secret);
        let signature = post.signature.iter().flat_map(SentSignature::secrets);
        secret::redact(text, url.iter().chain(secret).map(|s| s.expose()).chain(signature))
    };
    let Accepted { errmsg } = answer::classify(answer, redact).map_err(|error| match error {
        // To "create" the same code means a token that does not exist.
        InvokeCause::Rejected(Rejection { errcode: 300_001, .. }) if post.is_reply => {
            InvokeCause::ExpiredSessionWebhook
        }
        error => error,
    })?;
    let metadata = [("statusCode", "200"), ("errcode", "0"), ("errmsg", &errmsg)];
    Ok(metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec())
}

/// What "get" hands to the handler. Its caller may give any metadata, a `msgId` too; one item more says that it is a caller's
/// word, and the caller can neither leave it out nor replace it. It is the first: whatever hands on only so much hands on that.
pub fn event(settings: &Settings, request: InvokeRequest) -> Event {
    let InvokeRequest { operation, data, mut metadata } = request;
    metadata.retain(|(name, _)| !name.eq_ignore_ascii_case(OPERATION));
    metadata.insert(0, (OPERATION.to_owned(), operation));
    Event { id: settings.id.clone(), data, metadata }
}

/// Whether an operation's caller, and not DingTalk, says what is in `event`.
pub fn is_called(event: &Event) -> bool {
    event.metadata.iter().any(|(name, _)| name == OPERATION)
}

/// What the handler's answer to "get" means: the operation's output, or the error.
pub fn handed_on(
    settings: &Settings,
    answer: Result<Option<Vec<u8>>, HandlerError>,
) -> Result<Option<Vec<u8>>, InvokeCause> {
    answer.map_err(|error| match error {
        HandlerError::Failed(reason) => InvokeCause::HandlerFailed(reason),
        HandlerError::NotReading => InvokeCause::NotReading(settings.id.clone()),
        HandlerError::Reused => InvokeCause::HandlerFailed("it knows another message by the same msgId".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RejectionClass;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    const NOW: u64 = 1_700_000_000_000;
    const OK: &str = r#"{"errcode":0,"errmsg":"ok"}"#;

    fn settings(secret: &str) -> Settings {
        Settings::parse([("id", "team"), ("url", "https://h/p?access_token=T0K3N%2B"), ("secret", secret)]).unwrap()
    }

    fn answer(body: &str) -> Answer {
        Answer { status: 200, body: body.into(), complete: true }
    }

    fn request(operation: &str, metadata: &[(&str, &str)]) -> InvokeRequest {
        let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        InvokeRequest { operation: operation.to_owned(), data: b"{}".to_vec(), metadata }
    }

    fn post<'s>(settings: &'s Settings, operation: &str, metadata: &[(&str, &str)]) -> Post<'s> {
        prepare(settings, false, &request(operation, metadata), NOW).unwrap().expect(operation)
    }

    #[test]
    fn a_signed_post() {
        let signed = settings("secret");
        let post = post(&signed, "create", &[]);
        assert_eq!(
            post.target,
            "/p?access_token=T0K3N%2B&timestamp=1700000000000&sign=OuzzJR5%2BxZ4%2FEYwqtNt6sMYZQMTa%2FHEGvc9miJe7XzY%3D"
        );
        assert_eq!(format!("{post:?}"), "POST https://h:443/[redacted], 2 bytes");
        assert_eq!(self::post(&settings(""), "create", &[]).target, "/p?access_token=T0K3N%2B");
    }

    #[test]
    fn a_reply_goes_to_the_session_and_is_not_signed() {
        let settings = settings("secret");
        let webhook = "https://oapi.dingtalk.com/robot/sendBySession?session=S3SS10N";
        let post = post(&settings, "reply", &[("sessionWebhook", webhook), ("msgUuid", "u")]);
        assert_eq!(post.target, "/robot/sendBySession?session=S3SS10N");
        assert_eq!(post.endpoint.authority(), "oapi.dingtalk.com");
        assert_eq!(post.body, br#"{"msgUuid":"u"}"#);
        let echo = serde_json::json!({"errcode": 400_102, "errmsg": format!("{webhook} secret")}).to_string();
        let text = conclude(&settings, &post, &answer(&echo)).unwrap_err().to_string();
        assert!(!text.contains("S3SS10N") && !text.contains("secret"), "{text}");
        let error = prepare(&settings, false, &request("reply", &[]), NOW).unwrap_err();
        assert!(matches!(error, InvokeCause::InvalidSessionWebhook(_)), "{error}");
    }

    #[test]
    fn an_ended_session_is_told_apart_from_a_token_that_does_not_exist() {
        let settings = settings("");
        let gone = answer(r#"{"errcode":300001,"errmsg":"session 不存在"}"#);
        let reply = post(&settings, "reply", &[("sessionWebhook", "https://oapi.dingtalk.com/x?session=S3SS10N")]);
        let error = conclude(&settings, &reply, &gone).unwrap_err();
        assert_eq!(error, InvokeCause::ExpiredSessionWebhook);
        let error = conclude(&settings, &post(&settings, "create", &[]), &gone).unwrap_err();
        assert!(
            matches!(error, InvokeCause::Rejected(Rejection { class: RejectionClass::Configuration, .. })),
            "{error:?}"
        );
        let stopped = answer(r#"{"errcode":400102,"errmsg":"session 不存在"}"#);
        assert!(matches!(conclude(&settings, &reply, &stopped), Err(InvokeCause::Rejected(_))));
    }

    #[test]
    fn what_get_hands_on_says_so_whatever_its_caller_says() {
        let get = request("get", &[("msgId", "1"), ("Operation", "callback"), ("operation", ""), ("x", "y")]);
        let event = event(&settings(""), get);
        assert_eq!((event.id.as_str(), event.data.as_slice()), ("team", &b"{}"[..]));
        let metadata: Vec<_> = contract::pairs(&event.metadata).collect();
        assert_eq!(metadata, [("operation", "get"), ("msgId", "1"), ("x", "y")]);
        assert!(is_called(&event));
    }

    #[test]
    fn a_uuid_is_found_in_metadata_and_message() {
        const NONE: [(&str, &str); 0] = [];
        for (data, metadata, has) in [
            ("{}", ("MSGUUID", "u"), true),
            ("text", ("msgUuid", "u"), true),
            ("{}", ("msgUuid", " "), false),
            (r#"{"msgUuid":"u"}"#, ("other", "u"), true),
            ("\u{feff}{\"msgUuid\":\"u\"}", ("other", "u"), true),
            (r#"{"msgUuid":""}"#, ("other", "u"), false),
            (r#"{"msgUuid":null}"#, ("other", "u"), false),
            (r#"{"text":{"msgUuid":"u"}}"#, ("other", "u"), false),
            ("set \"msgUuid\" for that", ("other", "u"), false),
        ] {
            assert_eq!(has_uuid(data.as_bytes(), [metadata]), has, "{data} {metadata:?}");
        }
        assert!(!has_uuid(b"\xffmsgUuid", NONE));
    }

    #[test]
    fn the_operations() {
        let prepared = |operation, reading| {
            prepare(&settings(""), reading, &request(operation, &[]), NOW).map(|step| format!("{step:?}"))
        };
        assert_eq!(prepared("get", true).unwrap(), "None");
        assert_eq!(prepared("get", false), Err(InvokeCause::NotReading("team".into())));
        for operation in ["", "Create", "delete", "list"] {
            let all = vec!["create".into(), "get".into(), "reply".into()];
            assert_eq!(prepared(operation, true), Err(InvokeCause::UnsupportedOperation(all)));
        }
    }

    #[test]
    fn what_a_handler_says_to_get() {
        let said = |answer| handed_on(&settings(""), answer);
        assert_eq!(said(Ok(Some(b"x".to_vec()))), Ok(Some(b"x".to_vec())));
        assert_eq!(said(Ok(None)), Ok(None));
        assert_eq!(said(Err(HandlerError::Failed("no".into()))), Err(InvokeCause::HandlerFailed("no".into())));
        assert_eq!(said(Err(HandlerError::NotReading)), Err(InvokeCause::NotReading("team".into())));
        assert!(matches!(said(Err(HandlerError::Reused)), Err(InvokeCause::HandlerFailed(_))));
    }

    #[test]
    fn success_tells_what_dingtalk_said() {
        let settings = settings("secret");
        let post = post(&settings, "create", &[]);
        let metadata = conclude(&settings, &post, &answer(OK)).unwrap();
        let metadata: Vec<(&str, &str)> = metadata.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(metadata, [("statusCode", "200"), ("errcode", "0"), ("errmsg", "ok")]);
    }

    #[test]
    fn an_echo_of_the_request_shows_nothing_secret() {
        let settings = settings("S3CR3T");
        let post = post(&settings, "create", &[]);
        let signature = crate::signature::sign("S3CR3T", NOW);
        let base64 = STANDARD.encode(&post.target);
        let echo = format!("bad request {} S3CR3T {signature} T0K3N+ T0K3N%2B {base64}", post.target);
        for errcode in [0, 310_000] {
            let body = serde_json::json!({"errcode": errcode, "errmsg": echo}).to_string();
            let text = format!("{:?}", conclude(&settings, &post, &answer(&body)));
            let encoded = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
            for secret in ["S3CR3T", "T0K3N", signature.as_str(), encoded.as_str(), &base64[4..40]] {
                assert!(!text.contains(secret), "{text}");
            }
        }
    }
}
