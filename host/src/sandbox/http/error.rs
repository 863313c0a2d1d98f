//! wasi:io's errors, and what an error of the way out is in wasi:http.

use wasmtime::component::Resource;
use wasmtime_wasi_http::Error;

use super::Http;
use super::generated::wasi::http::types::{DnsErrorPayload, ErrorCode};
use super::generated::wasi::io::error::{Host, HostError};

/// Why reading or writing failed.
pub struct IoError(pub(super) Option<ErrorCode>);

impl Host for Http {}

impl HostError for Http {
    fn drop(&mut self, error: Resource<IoError>) -> wasmtime::Result<()> {
        self.handles.delete(&error)?;
        Ok(())
    }
}

/// What the component is told of an error of the way out. Each that the way out has is here; the text of another one, which
/// names no secret, is at least for a person.
pub(super) fn code(error: &Error) -> ErrorCode {
    match error {
        Error::HttpRequestDenied => ErrorCode::HttpRequestDenied,
        Error::HttpRequestUriInvalid => ErrorCode::HttpRequestUriInvalid,
        Error::HttpRequestBodySize(size) => ErrorCode::HttpRequestBodySize(*size),
        Error::DnsError { rcode, info_code } => {
            ErrorCode::DnsError(DnsErrorPayload { rcode: rcode.clone(), info_code: *info_code })
        }
        Error::DestinationUnavailable => ErrorCode::DestinationUnavailable,
        Error::DestinationIpProhibited => ErrorCode::DestinationIpProhibited,
        Error::ConnectionRefused => ErrorCode::ConnectionRefused,
        Error::ConnectionTimeout => ErrorCode::ConnectionTimeout,
        Error::ConnectionTerminated => ErrorCode::ConnectionTerminated,
        Error::TlsCertificateError => ErrorCode::TlsCertificateError,
        Error::TlsProtocolError => ErrorCode::TlsProtocolError,
        Error::HttpProtocolError => ErrorCode::HttpProtocolError,
        Error::HttpResponseTimeout => ErrorCode::HttpResponseTimeout,
        Error::HttpResponseIncomplete => ErrorCode::HttpResponseIncomplete,
        Error::HttpResponseBodySize(size) => ErrorCode::HttpResponseBodySize(*size),
        other => ErrorCode::InternalError(Some(other.to_string())),
    }
}
