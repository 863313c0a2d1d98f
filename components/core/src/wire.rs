//! Requests, headers and lines of the log, as WASI has them and as the rest of the gateway knows them.

use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

/// The longest line of the log. Everything in it that somebody else chose is bounded already; this is the last resort.
const MAX_LINE: usize = 2_048;

/// A `method` of wasi:http as [`Method`]; `None` if none can be called so. A macro, because each version of WASI has a type
/// of its own for the same cases.
#[macro_export]
macro_rules! method_of {
    ($methods:ident, $method:expr) => {
        match $method {
            $methods::Get => Some($crate::wire::Named::GET),
            $methods::Head => Some($crate::wire::Named::HEAD),
            $methods::Post => Some($crate::wire::Named::POST),
            $methods::Put => Some($crate::wire::Named::PUT),
            $methods::Delete => Some($crate::wire::Named::DELETE),
            $methods::Connect => Some($crate::wire::Named::CONNECT),
            $methods::Options => Some($crate::wire::Named::OPTIONS),
            $methods::Trace => Some($crate::wire::Named::TRACE),
            $methods::Patch => Some($crate::wire::Named::PATCH),
            $methods::Other(name) => $crate::wire::Named::from_bytes(name.as_bytes()).ok(),
        }
    };
}
/// What [`method_of!`] makes.
pub use http::Method as Named;

/// Method, target and headers; or what is wrong with them. The name under which we were called stands in the target: some
/// runtimes leave it in the header that it came in.
pub fn request(
    method: Option<Method>,
    path: Option<String>,
    authority: Option<String>,
    mut headers: HeaderMap,
) -> Result<Request<()>, &'static str> {
    // Of two names nobody knows which one others go by.
    let named = if headers.get_all(HOST).iter().count() > 1 { None } else { headers.remove(HOST) };
    let authority = authority.or_else(|| Some(named?.to_str().ok()?.to_owned()));
    let mut uri = Uri::builder().path_and_query(path.unwrap_or_else(|| "/".into()));
    if let Some(authority) = authority.filter(|authority| !authority.is_empty()) {
        uri = uri.scheme("http").authority(authority);
    }
    let mut request = Request::new(());
    *request.method_mut() = method.ok_or("the request's method has characters that none may have")?;
    *request.uri_mut() = uri
        .build()
        .map_err(|_| "the request's path or host has characters that must be escaped; escape them with %")?;
    // As in HTTP/2, the name under which we were called is no header here.
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Fields as headers; what cannot be one is left out.
pub fn headers(fields: Vec<(String, Vec<u8>)>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// How long a body will be, as far as its sender says so.
pub fn announced(headers: &HeaderMap) -> usize {
    headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or_default()
}

/// Headers as fields, with the length of the body: without it the body would be sent in chunks.
pub fn fields(headers: &HeaderMap, length: Option<usize>) -> Vec<(String, Vec<u8>)> {
    let fields = headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    let length = length.map(|length| ("content-length".to_owned(), length.to_string().into_bytes()));
    fields.chain(length).collect()
}

/// `text` as one line of the log. What could begin another line, or speak to a terminal, is blanked out.
pub fn line(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_LINE);
    let mut line: String =
        text.get(..end).unwrap_or_default().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Wasi {
        Get,
        Head,
        Post,
        Put,
        Delete,
        Connect,
        Options,
        Trace,
        Patch,
        Other(String),
    }

    #[test]
    fn methods_have_their_names() {
        let named = |method: Wasi| method_of!(Wasi, method).map(|method| method.to_string());
        for (method, name) in [
            (Wasi::Get, "GET"),
            (Wasi::Head, "HEAD"),
            (Wasi::Post, "POST"),
            (Wasi::Put, "PUT"),
            (Wasi::Delete, "DELETE"),
            (Wasi::Connect, "CONNECT"),
            (Wasi::Options, "OPTIONS"),
            (Wasi::Trace, "TRACE"),
            (Wasi::Patch, "PATCH"),
            (Wasi::Other("PROPFIND".into()), "PROPFIND"),
        ] {
            assert_eq!(named(method).as_deref(), Some(name));
        }
        assert_eq!(named(Wasi::Other("a b".into())), None);
    }

    #[test]
    fn a_request_is_called_by_the_name_in_its_target() {
        let path = || Some("/v1.0/metadata?x".to_owned());
        let built = request(Some(Method::GET), path(), Some("a:80".into()), HeaderMap::new()).unwrap();
        assert_eq!(built.uri(), "http://a:80/v1.0/metadata?x");
        let nameless = request(Some(Method::GET), None, Some(String::new()), HeaderMap::new()).unwrap();
        assert_eq!(nameless.uri(), "/");
        let in_header = |names: &[&'static str], authority: Option<&str>| {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.append(HOST, HeaderValue::from_static(name));
            }
            let built = request(Some(Method::GET), None, authority.map(str::to_owned), headers).unwrap();
            built.uri().authority().map(|authority| authority.to_string())
        };
        assert_eq!(in_header(&["a:80"], None).as_deref(), Some("a:80"));
        assert_eq!(in_header(&["a:80"], Some("b")).as_deref(), Some("b"));
        assert_eq!(in_header(&["a", "b"], None), None);
        for (method, path, authority) in [
            (None, path(), None),
            (Some(Method::GET), Some("/\u{7f}".into()), None),
            (Some(Method::GET), path(), Some("a b".into())),
        ] {
            assert!(request(method, path, authority, HeaderMap::new()).is_err());
        }
    }

    #[test]
    fn fields_are_headers_and_headers_are_fields() {
        let field = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
        let map = headers(vec![field("A", b"1"), field("a", b"2"), field("b c", b"3"), field("d", b"4\n")]);
        assert_eq!(fields(&map, None), [field("a", b"1"), field("a", b"2")]);
        assert_eq!(fields(&HeaderMap::new(), Some(7)), [field("content-length", b"7")]);
        for (length, expected) in [(&b"7"[..], 7), (b"-1", 0), (b"x", 0)] {
            assert_eq!(announced(&headers(vec![field("Content-Length", length)])), expected);
        }
        assert_eq!(announced(&HeaderMap::new()), 0);
    }

    #[test]
    fn a_line_of_the_log_is_one_line_and_has_an_end() {
        assert_eq!(line("a\r\nb\u{1b}[2J"), "a  b [2J\n");
        assert_eq!(line(&"长".repeat(10_000)).len(), MAX_LINE / 3 * 3 + 1);
    }
}
