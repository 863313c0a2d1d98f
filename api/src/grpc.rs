//! Dapr's gRPC API without gRPC: what of a call becomes a request, and which status says what became of it. No library of
//! gRPC is needed for it, so that the gateway component has none.

use std::time::Duration;

use dingtalk_binding::contract::InvokeRequest;
use http::Uri;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::answer::ERROR_DOMAIN;
use crate::caller::Names;
use crate::invoke::shown;
use crate::problem::{Kind, Problem};
use crate::request::{MAX_METADATA, too_many};
use crate::route::{Denied, Lists, TOKEN};
use crate::trace::{self, TRACE};

/// The service that is served.
pub const SERVICE: &str = "dapr.proto.runtime.v1.Dapr";

/// Those of its methods that are served, each with the name by which [`Lists`] have it.
const METHODS: [(&str, &str); 3] =
    [("InvokeBinding", "v1/bindings"), ("GetMetadata", "v1/metadata"), ("SetMetadata", "v1/metadata")];

/// gRPC's statuses, as far as they are used, with their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The request is wrong, whatever is loaded.
    InvalidArgument = 3,
    /// There was not enough time.
    DeadlineExceeded = 4,
    /// The caller may not.
    PermissionDenied = 7,
    /// There is more than is taken.
    ResourceExhausted = 8,
    /// There is no such method.
    Unimplemented = 12,
    /// What daprd says of every operation that fails.
    Internal = 13,
    /// Not now.
    Unavailable = 14,
    /// The token is missing or wrong.
    Unauthenticated = 16,
}

/// What a client is told of a call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// gRPC's status.
    pub code: Code,
    /// For people.
    pub message: String,
    /// For programs.
    pub info: Option<ErrorInfo>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorInfo {
    /// daprd's code for the problem, or one in its form.
    pub reason: &'static str,
    /// daprd's.
    pub domain: &'static str,
    /// What a program needs to decide what to do.
    pub metadata: Vec<(String, String)>,
}

/// The longest message, and the longest value of a detail, in bytes. Status and details travel in a head, the message
/// twice, and escaped it has three times its length: clients that take no more than 8 KiB (Python's) would show that
/// they refuse the head, and not the error.
const MAX_MESSAGE: usize = 1 << 10;
const MAX_DETAIL: usize = 512;

impl From<Problem> for Status {
    fn from(Problem { kind, reason, message, details, .. }: Problem) -> Self {
        let code = match kind {
            Kind::Malformed => Code::InvalidArgument,
            Kind::TooLong => Code::ResourceExhausted,
            Kind::TooSlow => Code::DeadlineExceeded,
            Kind::Refused => Code::PermissionDenied,
            Kind::Failed => Code::Internal,
            Kind::Busy => Code::Unavailable,
        };
        let metadata = details.into_iter().map(|(name, value)| (name, shown(&value, MAX_DETAIL))).collect();
        let info = Some(ErrorInfo { reason, domain: ERROR_DOMAIN, metadata });
        // As HTTP's Retry-After.
        let retry_after = (kind == Kind::Busy).then_some(Duration::from_secs(1));
        Self { code, message: shown(&message, MAX_MESSAGE), info, retry_after }
    }
}

impl Denied {
    /// daprd's status for it: it makes one of HTTP's.
    pub fn status(&self, names: &Names) -> Status {
        let why = match self {
            Self::NoToken => "missing api token in request metadata",
            Self::WrongToken => "authentication error: api token mismatch",
            Self::Stranger(stranger) => return stranger.problem(names).into(),
        };
        like_http(Code::Unauthenticated, "401", "Unauthorized", why)
    }
}

/// What daprd makes of a status of HTTP.
fn like_http(code: Code, number: &str, reason: &'static str, why: &str) -> Status {
    let metadata = [("http.code", number), ("http.error_message", why)];
    let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let info = Some(ErrorInfo { reason, domain: ERROR_DOMAIN, metadata });
    Status { code, message: reason.into(), info, retry_after: None }
}

/// Whether a rule is for a method that there is.
pub fn is_named(rule: &str) -> bool {
    METHODS.iter().any(|(_, group)| rule == *group)
}

/// Whether the method with this path is served, and `lists` have it.
pub fn check_method(path: &str, lists: &Lists) -> Result<(), Status> {
    let method = path.strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE)?.strip_prefix('/'));
    let Some((_, name)) = METHODS.iter().find(|(known, _)| Some(*known) == method) else {
        let known = METHODS.map(|(known, _)| known).join(", ");
        let message = format!("{} is not served here; of {SERVICE} there are {known}", shown(path, 128));
        return Err(Status { code: Code::Unimplemented, message, info: None, retry_after: None });
    };
    if lists.have(|rule| rule == *name) {
        return Ok(());
    }
    Err(like_http(Code::Unimplemented, "501", "Not Implemented", "requested endpoint is not available"))
}

/// A message that is none.
pub fn undecodable(what: &str) -> Status {
    let message = format!("grpc: error unmarshalling request: {what}");
    // What Go's library says of it.
    Status { code: Code::Internal, ..Problem::malformed(message).into() }
}

/// The client's own time is up.
pub fn too_late() -> Status {
    let outcome = vec![("outcome".to_owned(), "unknown".to_owned())];
    let info = ErrorInfo { reason: "ERR_DEADLINE_EXCEEDED", domain: ERROR_DOMAIN, metadata: outcome };
    let message = "the call's own time (grpc-timeout) is up; the message may have been posted".to_owned();
    Status { code: Code::DeadlineExceeded, message, info: Some(info), retry_after: None }
}

/// How long the client waits, if it says so: `grpc-timeout`, up to eight digits and a unit.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let malformed = || Problem::malformed("grpc-timeout is not up to eight digits and one of H, M, S, m, u, n").into();
    let text = value.to_str().map_err(|_| malformed())?;
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(malformed)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed());
    }
    let count: u64 = digits.parse().map_err(|_| malformed())?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return Err(malformed()),
    }))
}

/// What is gRPC's own in a head, and never an application's. Go's library keeps these from daprd.
const OWN: [&str; 6] = ["te", "grpc-timeout", "grpc-encoding", "grpc-message", "grpc-status", "grpc-message-type"];

/// Adds to a request what its call has: as daprd does, all metadata, of which no item replaces one of the request's but
/// those of the trace. Names that gRPC has for itself get the prefix `dapr-`. The token is for this host alone; and what
/// is not text cannot be metadata of a binding.
pub fn complete(uri: &Uri, headers: &HeaderMap, mut request: InvokeRequest) -> Result<InvokeRequest, Problem> {
    let metadata = &mut request.metadata;
    trace::add(headers, metadata).map_err(Problem::malformed)?;
    if let Some(parent) = trace::of_binary(headers)
        && !metadata.iter().any(|(name, _)| name == TRACE[0])
    {
        metadata.push((TRACE[0].to_owned(), parent));
    }
    let mut add = |name: String, value: &str| {
        if !metadata.iter().any(|(known, _)| *known == name) {
            metadata.push((name, value.to_owned()));
        }
    };
    if let Some(authority) = uri.authority() {
        add("dapr-authority".into(), authority.as_str());
    }
    for name in headers.keys().map(HeaderName::as_str) {
        if name == TOKEN || name.ends_with("-bin") || OWN.contains(&name) || TRACE.contains(&name) {
            continue;
        }
        let name_here = if name.starts_with("grpc-") { format!("dapr-{name}") } else { name.to_owned() };
        if let Some(Ok(value)) = headers.get(name).map(HeaderValue::to_str) {
            add(name_here, value);
        }
    }
    if metadata.len() > MAX_METADATA {
        return Err(Problem::malformed(too_many()));
    }
    Ok(request)
}

/// Response metadata as a head has it, `metadata.*`. The message has all of it; here is what any client's library takes:
/// some refuse an answer for one character.
pub fn headers(metadata: &[(String, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in metadata {
        let name = format!("metadata.{}", name.to_ascii_lowercase());
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        let is_value = value.len() <= MAX_DETAIL && value.bytes().all(|b| matches!(b, b' '..=b'~'));
        if !is_name || name.ends_with("-bin") || !is_value {
            continue;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            map.append(name, value);
        }
    }
    map
}

/// gRPC's statuses by number, as its libraries write them.
const NAMES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The name of a status.
pub fn name(code: i32) -> &'static str {
    usize::try_from(code).ok().and_then(|code| NAMES.get(code)).copied().unwrap_or("Unknown")
}

#[cfg(test)]
mod tests {
    use dingtalk_binding::error::{InvokeCause, InvokeError as BindingError, Outcome};

    use super::*;
    use crate::caller::{FLAGS, Stranger};
    use crate::invoke::{Failed, InvokeError};

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    fn pairs(metadata: &[(&str, &str)]) -> Vec<(String, String)> {
        metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn completed(
        headers: &[(&'static str, &str)],
        metadata: &[(&str, &str)],
    ) -> Result<Vec<(String, String)>, Problem> {
        let request = InvokeRequest { operation: "create".into(), data: b"\0\xff".to_vec(), metadata: pairs(metadata) };
        let completed = complete(&Uri::from_static("http://localhost:50001/x"), &map(headers), request)?;
        assert_eq!(completed.data, b"\0\xff", "data is not looked at");
        Ok(completed.metadata)
    }

    #[test]
    // What daprd 1.18 does with them; the names come from Go's gRPC library.
    fn a_calls_metadata_becomes_the_requests() {
        let headers = [
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", "1S"),
            ("grpc-accept-encoding", "gzip"),
            ("user-agent", "grpc-go/1.77"),
            ("dapr-api-token", "S3CR3T"),
            ("title", "the call's"),
            ("x-one", "1"),
            ("x-one", "2"),
            ("some-bin", "AAAA"),
            ("x-no-text", "\u{e9}"),
        ];
        let expected = [
            ("Title", "ours"),
            ("x-one", "ours"),
            ("dapr-authority", "localhost:50001"),
            ("content-type", "application/grpc"),
            ("dapr-grpc-accept-encoding", "gzip"),
            ("user-agent", "grpc-go/1.77"),
            ("title", "the call's"),
        ];
        assert_eq!(completed(&headers, &[("Title", "ours"), ("x-one", "ours")]), Ok(pairs(&expected)));
    }

    #[test]
    fn the_trace_of_the_call_wins_and_its_older_form_is_read() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let binary = "AABL+S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3AgE=";
        let of = |headers: &[(&'static str, &str)], metadata: &[(&str, &str)]| {
            let metadata = completed(headers, metadata).unwrap();
            let value = |wanted: &str| metadata.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
            assert_eq!(value("grpc-trace-bin"), None);
            (value("traceparent"), value("baggage"))
        };
        let (own, call) = (Some("own".to_owned()), Some(trace.to_owned()));
        assert_eq!(
            of(&[("traceparent", trace), ("baggage", "a=1"), ("baggage", "b=2")], &[("traceparent", "own")]).0,
            call
        );
        assert_eq!(of(&[("baggage", "a=1"), ("baggage", "b=2")], &[]).1.as_deref(), Some("a=1,b=2"));
        assert_eq!(of(&[("grpc-trace-bin", binary)], &[]).0, call);
        assert_eq!(of(&[("grpc-trace-bin", binary)], &[("traceparent", "own")]).0, own);
        assert_eq!(of(&[("grpc-trace-bin", "AAAA")], &[]).0, None);
        let problem = completed(&[("baggage", "nothing")], &[]).unwrap_err();
        assert_eq!((problem.kind, problem.reason), (Kind::Malformed, "ERR_MALFORMED_REQUEST"));
        assert!(problem.message.starts_with("invalid baggage header: "), "{problem:?}");
    }

    #[test]
    fn no_more_items_than_over_http() {
        let names: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
        let items: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        // With the authority.
        assert_eq!(completed(&[], &items[..999]).unwrap().len(), 1_000);
        assert!(completed(&[], &items).unwrap_err().message.contains("more than 1000 items"));
    }

    #[test]
    fn a_failed_operation_as_daprd_tells_it() {
        let error = InvokeError::Call(Failed::new(
            BindingError { cause: InvokeCause::Unreachable("no route".into()), outcome: Outcome::Unknown },
            true,
        ));
        let status = Status::from(Problem::not_invoked("robot", &error));
        assert_eq!(status.code as i32, 13);
        let message = "error invoking output binding robot: dingtalk webhook error: ";
        assert!(status.message.starts_with(message), "{}", status.message);
        let info = status.info.unwrap();
        assert_eq!((info.reason, info.domain), ("ERR_INVOKE_OUTPUT_BINDING", "dapr.io"));
        assert_eq!(info.metadata, pairs(&[("error", "unreachable"), ("outcome", "unknown")]));
        let missing: InvokeError<BindingError> = InvokeError::NotFound("x".into());
        let status = Status::from(Problem::not_invoked("x", &missing));
        assert_eq!(status.message, "error invoking output binding x: couldn't find output binding x");
    }

    #[test]
    fn every_problem_has_a_status() {
        for (problem, code) in [
            (Problem::malformed("x"), 3),
            (Problem::too_long("x"), 8),
            (Problem::too_slow("x"), 4),
            (Problem::stranger("x".into()), 7),
            (Problem::busy("x"), 14),
        ] {
            let status = Status::from(problem.clone());
            assert_eq!(status.code as i32, code, "{problem:?}");
            assert_eq!(status.retry_after.is_some(), problem.kind == Kind::Busy);
            assert_eq!(status.info.unwrap().reason, problem.reason);
        }
        assert_eq!((undecodable("x").code as i32, too_late().code as i32), (13, 4));
    }

    #[test]
    fn who_has_no_token_hears_what_daprd_says() {
        for (denied, why) in [
            (Denied::NoToken, "missing api token in request metadata"),
            (Denied::WrongToken, "authentication error: api token mismatch"),
        ] {
            let status = denied.status(&FLAGS);
            assert_eq!((status.code as i32, status.message.as_str()), (16, "Unauthorized"));
            let info = status.info.unwrap();
            assert_eq!((info.reason, info.domain), ("Unauthorized", "dapr.io"));
            assert_eq!(info.metadata, pairs(&[("http.code", "401"), ("http.error_message", why)]));
        }
        let status = Denied::Stranger(Stranger::Origin).status(&FLAGS);
        assert_eq!(status.code as i32, 7);
        assert!(
            status.message.contains("--allowed-origins") && status.message.contains("DAPR_API_TOKEN"),
            "{status:?}"
        );
    }

    #[test]
    fn a_status_fits_into_a_head_that_every_client_takes() {
        let mut problem = Problem::malformed("长".repeat(100_000));
        problem.details = vec![("errmsg".into(), "长".repeat(100_000))];
        let status = Status::from(problem);
        let details = &status.info.unwrap().metadata[0].1;
        assert!(status.message.ends_with('…') && details.ends_with('…'));
        // The message in percent escapes, and it and the details in base64.
        let size = 3 * status.message.len() + (status.message.len() + details.len() + 200) * 4 / 3;
        assert!(size < 6 << 10, "{size}");
    }

    #[test]
    fn times_as_clients_write_them() {
        let of = |value: &str| timeout(&map(&[("grpc-timeout", value)]));
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
        for (value, expected) in [
            ("1H", Duration::from_secs(3_600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("99999999H", Duration::from_secs(99_999_999 * 3_600)),
            ("0S", Duration::ZERO),
        ] {
            assert_eq!(of(value), Ok(Some(expected)), "{value}");
        }
        for value in ["", "S", "1", "1s", "-1S", "123456789S", "1 S", "1é", "0x1S"] {
            assert_eq!(of(value).unwrap_err().code, Code::InvalidArgument, "{value}");
        }
    }

    #[test]
    fn only_what_every_client_takes_is_in_the_head() {
        let metadata = pairs(&[
            ("errcode", "0"),
            ("statusCode", "200"),
            ("errmsg", "成功"),
            ("line", "a\nb"),
            ("with space", "1"),
            ("x-bin", "1"),
            ("long", &"x".repeat(513)),
        ]);
        assert_eq!(headers(&metadata), map(&[("metadata.errcode", "0"), ("metadata.statuscode", "200")]));
    }

    #[test]
    fn lists_take_methods_away() {
        let permitted = |allowed: &[&str], denied: &[&str]| {
            let [allowed, denied] = [allowed, denied].map(|rules| rules.iter().map(|&rule| rule.to_owned()).collect());
            let lists = Lists { allowed, denied };
            METHODS.map(|(method, _)| check_method(&format!("/{SERVICE}/{method}"), &lists))
        };
        let there = |results: [Result<(), Status>; 3]| results.map(|result| result.is_ok());
        assert_eq!(there(permitted(&["v1/bindings"], &[])), [true, false, false]);
        assert_eq!(there(permitted(&[], &["v1/bindings"])), [false, true, true]);
        assert_eq!(there(permitted(&["v1/state"], &[])), [false; 3]);
        assert_eq!(there(permitted(&["v1/metadata"], &["v1/metadata"])), [false; 3]);
        let [denied, ..] = permitted(&[], &["v1/bindings"]);
        let denied = denied.unwrap_err();
        assert_eq!((denied.code, denied.message.as_str()), (Code::Unimplemented, "Not Implemented"));
        let info = denied.info.unwrap();
        assert_eq!(info.reason, "Not Implemented");
        assert!(info.metadata.contains(&("http.error_message".into(), "requested endpoint is not available".into())));
    }

    #[test]
    fn the_methods_that_there_are() {
        let all = Lists::default();
        for (method, _) in METHODS {
            assert_eq!(check_method(&format!("/{SERVICE}/{method}"), &all), Ok(()));
        }
        for path in ["/", "", "/dapr.proto.runtime.v1.Dapr/GetState", "/a.B/InvokeBinding", "/InvokeBinding"] {
            let status = check_method(path, &all).unwrap_err();
            assert_eq!(status.code as i32, 12);
            assert!(status.message.contains(path) && status.message.contains("InvokeBinding"), "{status:?}");
        }
        assert!(check_method(&format!("/{}", "x".repeat(10_000)), &all).unwrap_err().message.len() < 300);
        assert_eq!((name(0), name(16), name(17), name(-1)), ("OK", "Unauthenticated", "Unknown", "Unknown"));
    }
}
