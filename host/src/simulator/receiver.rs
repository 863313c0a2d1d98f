//! Who receives callbacks: one request on one connection, and what comes back within its time.

use std::error::Error as StdError;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dingtalk_binding::endpoint::Scheme;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use super::callback::Callback;
use super::robot::MAX_BODY;
use super::wire::Payload;

/// Who receives callbacks.
pub(super) struct Receiver {
    uri: Uri,
    client: Client<HttpsConnector<HttpConnector>, Payload>,
}

impl Receiver {
    /// The error does not repeat the URL, which may hold something secret.
    pub(super) fn new(url: &str) -> Result<Self, String> {
        Self::with(url, crate::egress::tls)
    }

    /// With what `trust` returns for the URL's scheme.
    pub(super) fn with(
        url: &str,
        trust: impl FnOnce(Scheme) -> Result<rustls::ClientConfig, String>,
    ) -> Result<Self, String> {
        let wrong = "the callback URL is not one: write for example http://127.0.0.1:8080/callback";
        let uri: Uri = url.parse().map_err(|_| wrong.to_owned())?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err("the callback URL begins with http:// or https://".into()),
        };
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@') || authority.host().is_empty()) {
            return Err(wrong.into());
        }
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(trust(scheme)?).https_or_http().enable_http1().build();
        // A connection for each attempt: none fails because the receiver closed an idle one.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { uri, client })
    }

    /// Status and body of the answer, or why there is none. Redirects are not followed.
    pub(super) async fn send(&self, callback: &Callback, time: Duration) -> Result<(StatusCode, Bytes), String> {
        let mut request = Request::post(self.uri.clone()).header(CONTENT_TYPE, callback.content_type);
        for (name, value) in &callback.headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| format!("{name} does not fit into a header"))?;
            value.set_sensitive(true);
            request = request.header(*name, value);
        }
        let request =
            request.body(Payload::Padded(callback.body.clone(), callback.blanks)).map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| {
                let what = if error.is_connect() { "no connection" } else { "no answer" };
                format!("{what}: {}", causes(&error))
            })?;
            let (head, mut body) = answer.into_parts();
            let mut read = BytesMut::new();
            // One byte more than a reply may have is enough to know that it is too long.
            while read.len() <= MAX_BODY
                && let Some(frame) = body.frame().await
            {
                let frame = frame.map_err(|error| format!("the answer broke off: {}", causes(&error)))?;
                if let Ok(data) = frame.into_data() {
                    let room = (MAX_BODY + 1).saturating_sub(read.len());
                    read.extend_from_slice(data.get(..room).unwrap_or(&data));
                }
            }
            Ok((head.status, read.freeze()))
        };
        timeout(time, exchange).await.unwrap_or_else(|_| Err(format!("no answer within {time:?}")))
    }
}

/// What lies behind an error; hyper's own words only say where it happened.
fn causes(error: &dyn StdError) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_are_http_urls() {
        for url in ["http://127.0.0.1:1/x", "https://host/", "http://[::1]:8080/a?b=c"] {
            assert!(Receiver::new(url).is_ok(), "{url}");
        }
        for url in ["", "/path", "127.0.0.1:80", "ftp://h/S3CR3T", "http://", "http:///x", "http://u:S3CR3T@h/", "x y"]
        {
            let error = Receiver::new(url).err().unwrap();
            assert!(error.contains("http://") && !error.contains("S3CR3T"), "{url}: {error}");
        }
    }
}
