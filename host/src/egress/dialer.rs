//! How a client's connections come about: directly, through a proxy's tunnel, or to a proxy that forwards; and what it means if
//! they do not.

use std::error::Error as StdError;
use std::io;
use std::task::{Context, Poll};

use dingtalk_binding::endpoint::Scheme;
use http::header::HeaderValue;
use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;
use wasmtime_wasi_http::Error;

use super::departure::Departure;
use super::resolver::{ResolveError, Resolver};
use crate::event::BoxFuture;

pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

/// How a binding's connections reach its host. Fixed when its client is made: it has one destination.
#[derive(Clone)]
pub(super) enum Route {
    Direct,
    /// CONNECT through a proxy, TLS inside: the proxy sees the host's name and nothing else.
    Tunnel(Tunnel<HttpConnector<Resolver>>),
    /// A plain request that the proxy forwards.
    Forward(Uri),
}

pub(super) fn route(
    scheme: Scheme,
    intercept: Option<Intercept>,
    http: &HttpConnector<Resolver>,
) -> (Route, Option<HeaderValue>) {
    let Some(intercept) = intercept else { return (Route::Direct, None) };
    let authorization = intercept.basic_auth().cloned();
    match scheme {
        Scheme::Http => (Route::Forward(intercept.uri().clone()), authorization),
        Scheme::Https => {
            let tunnel = Tunnel::new(intercept.uri().clone(), http.clone());
            let tunnel = match authorization {
                Some(authorization) => tunnel.with_auth(authorization),
                None => tunnel,
            };
            (Route::Tunnel(tunnel), None)
        }
    }
}

#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) http: HttpConnector<Resolver>,
    pub(super) route: Route,
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let proxy = |error: BoxError| Failure::Proxy(error.to_string());
        match &self.route {
            Route::Direct => {
                let connecting = self.http.call(destination);
                Box::pin(async { Ok(connecting.await?) })
            }
            Route::Tunnel(tunnel) => {
                let connecting = tunnel.clone().call(destination);
                Box::pin(async move { Ok(connecting.await.map_err(|error| proxy(error.into()))?) })
            }
            Route::Forward(address) => {
                let connecting = self.http.call(address.clone());
                Box::pin(async move { Ok(connecting.await.map_err(|error| proxy(error.into()))?) })
            }
        }
    }
}

/// What can fail before a connection stands, beside the name and TCP.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("connecting took too long")]
    ConnectTimeout,
    #[error("the proxy does not connect: {0}")]
    Proxy(String),
}

/// What an error of connecting means to the component.
pub(super) fn connect_failure(error: &(dyn StdError + 'static), departure: &Departure) -> Error {
    std::iter::successors(Some(error), |cause: &&(dyn StdError + 'static)| (*cause).source())
        .find_map(|cause| connect_cause(cause, departure))
        .unwrap_or(Error::DestinationUnavailable)
}

fn connect_cause(cause: &(dyn StdError + 'static), departure: &Departure) -> Option<Error> {
    if let Some(failure) = cause.downcast_ref::<ResolveError>() {
        return Some(match failure {
            ResolveError::Failed(_) => Error::DnsError { rcode: None, info_code: None },
            prohibited @ ResolveError::Prohibited { .. } => {
                departure.refuse(prohibited.to_string());
                Error::DestinationIpProhibited
            }
        });
    }
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(match failure {
            Failure::ConnectTimeout => Error::ConnectionTimeout,
            Failure::Proxy(reason) => {
                tracing::warn!(reason, "the proxy does not connect");
                Error::DestinationUnavailable
            }
        });
    }
    let mut io = cause.downcast_ref::<io::Error>()?;
    // The connector wraps the handshake's error in another one, whose `source` is not the one it wraps but
    // the one after that.
    while let Some(inner) = io.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>()) {
        io = inner;
    }
    if let Some(tls) = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        tracing::warn!(error = %tls, "no TLS connection");
        return Some(match tls {
            rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
            _ => Error::TlsProtocolError,
        });
    }
    Some(match io.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        // The peer spoke no TLS, or hung up during the handshake.
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::InvalidData => {
            Error::TlsProtocolError
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each has a text of its own for the operator, and says that nothing was sent.
    #[test]
    fn what_keeps_a_connection_from_standing_is_told_apart() {
        use io::ErrorKind as Kind;
        let departure = Departure::default();
        let of = |error: BoxError| connect_failure(&*error, &departure);
        let tls = |error: rustls::Error| io::Error::other(io::Error::new(Kind::InvalidData, error));
        let certificate = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        assert!(matches!(of(io::Error::from(Kind::ConnectionRefused).into()), Error::ConnectionRefused));
        assert!(matches!(of(io::Error::from(Kind::TimedOut).into()), Error::ConnectionTimeout));
        assert!(matches!(of(Failure::ConnectTimeout.into()), Error::ConnectionTimeout));
        for kind in [Kind::UnexpectedEof, Kind::ConnectionReset, Kind::InvalidData] {
            assert!(matches!(of(io::Error::from(kind).into()), Error::TlsProtocolError), "{kind}");
        }
        assert!(matches!(of(tls(certificate).into()), Error::TlsCertificateError));
        assert!(matches!(of(tls(rustls::Error::DecryptError).into()), Error::TlsProtocolError));
        assert!(matches!(of(io::Error::from(Kind::NetworkUnreachable).into()), Error::DestinationUnavailable));
        assert!(matches!(of(Failure::Proxy("407".into()).into()), Error::DestinationUnavailable));
        let failed = ResolveError::Failed(io::Error::other("no such host"));
        assert!(matches!(of(failed.into()), Error::DnsError { .. }));
    }
}
