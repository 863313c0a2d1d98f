//! Why a post was not answered, for whoever called, and whether the message can have arrived.

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use crate::error::{InvokeCause, InvokeError, Outcome};
use crate::operation::Post;

/// What went wrong on the way out. The names are those of wasi:http's `error-code`, in groups of one meaning; each of its
/// versions has a type of its own for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The host's policy forbids the destination.
    Denied,
    /// The host's policy forbids the destination's address.
    AddressProhibited,
    /// There is no address.
    NotResolved,
    /// Nobody listens there.
    Refused,
    /// There is no way there.
    Unavailable,
    /// There was no connection in time.
    ConnectTimeout,
    /// The host has too many connections.
    NoConnectionLeft,
    /// The server's certificate is not trusted.
    Certificate,
    /// The TLS handshake failed.
    Tls,
    /// The host does not send a request like this one.
    TooLarge,
    /// The host does not take this part of the request.
    Unacceptable(&'static str),
    /// There was no answer in time.
    Timeout,
    /// The connection ended before an answer.
    Closed,
    /// What answered is no HTTP server.
    NotHttp,
    /// Anything else.
    Other,
}

/// An `error-code` of wasi:http as a [`Failure`]. A macro, because each version of WASI has a type of its own for the same
/// cases.
#[macro_export]
macro_rules! failure_of {
    ($codes:ident, $code:expr) => {
        match $code {
            $codes::HttpRequestDenied => $crate::failure::Failure::Denied,
            $codes::DestinationIpProhibited => $crate::failure::Failure::AddressProhibited,
            $codes::DnsTimeout | $codes::DnsError(_) | $codes::DestinationNotFound => {
                $crate::failure::Failure::NotResolved
            }
            $codes::ConnectionRefused => $crate::failure::Failure::Refused,
            $codes::DestinationUnavailable | $codes::DestinationIpUnroutable => $crate::failure::Failure::Unavailable,
            $codes::ConnectionTimeout => $crate::failure::Failure::ConnectTimeout,
            $codes::ConnectionLimitReached => $crate::failure::Failure::NoConnectionLeft,
            $codes::TlsCertificateError => $crate::failure::Failure::Certificate,
            $codes::TlsProtocolError => $crate::failure::Failure::Tls,
            $codes::HttpRequestLengthRequired
            | $codes::HttpRequestBodySize(_)
            | $codes::HttpRequestMethodInvalid
            | $codes::HttpRequestUriInvalid
            | $codes::HttpRequestUriTooLong
            | $codes::HttpRequestHeaderSectionSize(_)
            | $codes::HttpRequestHeaderSize(_) => $crate::failure::Failure::TooLarge,
            $codes::HttpResponseTimeout | $codes::ConnectionReadTimeout | $codes::ConnectionWriteTimeout => {
                $crate::failure::Failure::Timeout
            }
            $codes::ConnectionTerminated | $codes::HttpResponseIncomplete => $crate::failure::Failure::Closed,
            $codes::HttpProtocolError => $crate::failure::Failure::NotHttp,
            _ => $crate::failure::Failure::Other,
        }
    };
}

impl Failure {
    /// The error for whoever called. Everything that happens after the connection stands is `unknown`: the bytes may
    /// have been read before it broke.
    pub fn explain(self, post: &Post<'_>) -> InvokeError {
        let host = post.endpoint.authority();
        let limit = |time| format!("{} ms", nanos(time) / 1_000_000);
        let (reason, outcome): (String, _) = match self {
            Self::Denied => {
                let scheme = post.endpoint.origin().scheme().as_str();
                let reason = format!("the egress policy does not allow this binding to reach {scheme}://{host}");
                (reason, Outcome::NotSent)
            }
            Self::AddressProhibited => {
                (format!("the egress policy does not allow the address of {host}"), Outcome::NotSent)
            }
            Self::NotResolved => {
                let host = post.endpoint.origin().host();
                let reason = format!("the name {host} cannot be resolved; check the property \"url\" and DNS");
                (reason, Outcome::NotSent)
            }
            Self::Refused => (format!("{host} refuses connections"), Outcome::NotSent),
            Self::Unavailable => {
                let reason =
                    format!("no connection to {host} comes about; check the network and the proxy, if one is set");
                (reason, Outcome::NotSent)
            }
            Self::ConnectTimeout => {
                let time = limit(post.connect_timeout.min(post.timeout));
                (format!("connecting to {host} took longer than {time}"), Outcome::NotSent)
            }
            Self::NoConnectionLeft => ("the host has no connection left".into(), Outcome::NotSent),
            Self::Certificate => {
                (format!("the certificate of {host} is not trusted or not valid for this name"), Outcome::NotSent)
            }
            Self::Tls => (format!("no TLS connection to {host} came about"), Outcome::NotSent),
            Self::TooLarge => {
                ("the host refused the request: URL, headers or message are too large".into(), Outcome::NotSent)
            }
            Self::Unacceptable(what) => (format!("the host refused the request ({what})"), Outcome::NotSent),
            Self::Timeout => (format!("{host} did not answer within {}", limit(post.timeout)), Outcome::Unknown),
            Self::Closed => (format!("{host} closed the connection without an answer"), Outcome::Unknown),
            Self::NotHttp => (format!("{host} does not speak HTTP"), Outcome::Unknown),
            Self::Other => (format!("sending to {host} failed"), Outcome::Unknown),
        };
        InvokeError { cause: InvokeCause::Unreachable(reason), outcome }
    }
}

/// As wasi:clocks counts time.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::InvokeRequest;
    use crate::operation;
    use crate::settings::Settings;

    #[test]
    fn a_failure_names_the_host_and_what_became_of_the_message_and_never_the_token() {
        let properties = [
            ("id", "team"),
            ("url", "https://robot.example:8443/send?access_token=T0K3N"),
            ("timeout", "3s"),
            ("connectTimeout", "250ms"),
        ];
        let settings = Settings::parse(properties).unwrap();
        let request = InvokeRequest { operation: "create".into(), data: b"hi".to_vec(), metadata: Vec::new() };
        let post = operation::prepare(&settings, false, &request, 0).unwrap().unwrap();
        for (failure, part, outcome) in [
            (Failure::Denied, "https://robot.example:8443", Outcome::NotSent),
            (Failure::AddressProhibited, "the address of robot.example:8443", Outcome::NotSent),
            (Failure::NotResolved, "the name robot.example cannot", Outcome::NotSent),
            (Failure::Refused, "robot.example:8443 refuses", Outcome::NotSent),
            (Failure::Unavailable, "to robot.example:8443 comes about", Outcome::NotSent),
            (Failure::ConnectTimeout, "longer than 250 ms", Outcome::NotSent),
            (Failure::NoConnectionLeft, "no connection left", Outcome::NotSent),
            (Failure::Certificate, "the certificate of robot.example:8443", Outcome::NotSent),
            (Failure::Tls, "no TLS connection to robot.example:8443", Outcome::NotSent),
            (Failure::TooLarge, "too large", Outcome::NotSent),
            (Failure::Unacceptable("headers"), "refused the request (headers)", Outcome::NotSent),
            (Failure::Timeout, "robot.example:8443 did not answer within 3000 ms", Outcome::Unknown),
            (Failure::Closed, "robot.example:8443 closed", Outcome::Unknown),
            (Failure::NotHttp, "robot.example:8443 does not speak HTTP", Outcome::Unknown),
            (Failure::Other, "sending to robot.example:8443 failed", Outcome::Unknown),
        ] {
            let error = failure.explain(&post);
            let InvokeCause::Unreachable(reason) = &error.cause else { panic!("{error:?}") };
            assert!(reason.contains(part) && !reason.contains("T0K3N"), "{reason}");
            assert_eq!(error.outcome, outcome, "{failure:?}");
        }
    }
}
