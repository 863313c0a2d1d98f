//! Which request is for what, and who may ask, in the order in which daprd looks.

use std::net::IpAddr;

use dingtalk_binding::secret::Secret;
use http::header::HeaderMap;
use http::{Method, Request, StatusCode, Uri};
use subtle::ConstantTimeEq;

use crate::answer::{self, Answer};
use crate::caller::{self, Allowed, Names, Stranger};
use crate::query;
use crate::request::Form;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Whether we are well. `appid` may ask for the health of this application alone.
    Health,
    /// Whether the way to other components is well.
    OutboundHealth,
    /// A message from DingTalk for the binding of this name.
    Callback(String),
    /// An operation of the binding of this name.
    Invoke(String, Form),
    /// What is loaded.
    Metadata,
    /// The attribute of this name is to be set.
    SetMetadata(String),
}

/// Groups of Dapr's API and paths, of all routes that lists can take away.
const GROUPS: [(&str, &str); 4] = [
    ("v1/bindings", "v1.0/bindings/{name}"),
    ("v1/bindings", "v1.0/bindings/{name}/{operation}"),
    ("v1/metadata", "v1.0/metadata"),
    ("v1/metadata", "v1.0/metadata/{key}"),
];

/// Whether a rule is for a route that there is. It names a group, or is the beginning of a path.
pub fn is_named(rule: &str) -> bool {
    GROUPS.iter().any(|route| names(rule, *route))
}

fn names(rule: &str, (group, path): (&str, &str)) -> bool {
    rule == group || path.starts_with(rule)
}

impl Route {
    /// The group of Dapr's API that it belongs to, and its path as Dapr writes it; `None` for what Dapr always allows or
    /// does not have.
    fn group(&self) -> Option<(&'static str, &'static str)> {
        let [invoke, invoke_bare, metadata, set_metadata] = GROUPS;
        match self {
            Self::Invoke(_, Form::Envelope) => Some(invoke),
            Self::Invoke(_, Form::Bare(_)) => Some(invoke_bare),
            Self::Metadata => Some(metadata),
            Self::SetMetadata(_) => Some(set_metadata),
            Self::Health | Self::OutboundHealth | Self::Callback(_) => None,
        }
    }
}

/// Dapr's lists of what of one of the APIs there is: `version/name` each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lists {
    /// If there are any: nothing but these.
    pub allowed: Vec<String>,
    /// Not these, whatever `allowed` says.
    pub denied: Vec<String>,
}

impl Lists {
    /// Whether these lists have what `is_named` by a rule.
    pub(crate) fn have(&self, is_named: impl Fn(&str) -> bool) -> bool {
        let has = |rules: &[String]| rules.iter().any(|rule| is_named(rule));
        !has(&self.denied) && (self.allowed.is_empty() || has(&self.allowed))
    }

    /// The route, if the lists have it. What they take away is as if it had never been there.
    pub fn permit(&self, route: Route) -> Result<Route, Answer> {
        let Some(group) = route.group() else { return Ok(route) };
        let is_there = self.have(|rule| names(rule, group));
        if is_there { Ok(route) } else { Err(no_such_route()) }
    }
}

/// daprd takes whatever it does not know for a service invocation without a target.
fn no_such_route() -> Answer {
    let message = "failed getting app id either from the URL path or the header dapr-app-id";
    answer::error(StatusCode::NOT_FOUND, "ERR_DIRECT_INVOKE", message, &[])
}

/// How a request came in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entrance {
    /// The address of ours that it has reached, where that is known.
    pub address: Option<IpAddr>,
    /// Only callbacks and health checks come in here.
    pub callbacks_only: bool,
    /// By which name we were called is not known here.
    pub nameless: bool,
}

/// Where the token is, in both directions and both protocols.
pub const TOKEN: &str = "dapr-api-token";

/// Why somebody may not ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// The token is missing.
    NoToken,
    /// It is another one.
    WrongToken,
    /// There is none, and this may be a page in somebody's browser.
    Stranger(Stranger),
}

/// Who may ask.
#[derive(Debug)]
pub struct Access<'a> {
    /// The application's name.
    pub app_id: &'a str,
    /// What clients must send as `dapr-api-token`, if anything.
    pub token: Option<&'a Secret>,
    /// Who may ask without one.
    pub allowed: &'a Allowed,
    /// What the lists of `allowed` are called.
    pub names: &'a Names,
}

impl Access<'_> {
    /// What `request` is for; or the answer, if there is nothing more to it.
    pub fn route<B>(&self, request: &Request<B>, entrance: Entrance) -> Result<Route, Answer> {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        if !entrance.nameless
            && let Err(what) = caller::host(request.version(), uri, headers)
        {
            return Err(answer::text(StatusCode::BAD_REQUEST, what));
        }
        let path = clean(uri.path());
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match (method, segments.as_slice()) {
            // daprd leaves health checks open, so that a probe needs no secret.
            (&Method::GET, ["v1.0", "healthz"]) => return self.health(uri.query().unwrap_or_default()),
            (&Method::GET, ["v1.0", "healthz", "outbound"]) => return Ok(Route::OutboundHealth),
            // Nor has DingTalk the token: a callback proves itself.
            (_, ["v1.0", "bindings", name, "callback"]) => {
                let name = query::unescape(name).map_err(|_| not_unescaped("name", ""))?;
                return Ok(Route::Callback(name));
            }
            _ if entrance.callbacks_only => return Err(answer::empty(StatusCode::NOT_FOUND)),
            _ => {}
        }
        self.admit(uri, headers, entrance).map_err(|denied| match denied {
            Denied::NoToken | Denied::WrongToken => answer::text(StatusCode::UNAUTHORIZED, "invalid api token"),
            Denied::Stranger(stranger) => stranger.problem(self.names).into(),
        })?;
        match (method, segments.as_slice()) {
            (&Method::POST | &Method::PUT, ["v1.0", "bindings", name]) => {
                Ok(Route::Invoke(parameter("name", name)?, Form::Envelope))
            }
            (&Method::POST | &Method::PUT, ["v1.0", "bindings", name, operation]) => {
                let (name, operation) = (parameter("name", name)?, parameter("operation", operation)?);
                Ok(Route::Invoke(name, Form::Bare(operation)))
            }
            (&Method::GET, ["v1.0", "metadata"]) => Ok(Route::Metadata),
            (&Method::PUT, ["v1.0", "metadata", key]) => {
                query::unescape(key).map(Route::SetMetadata).map_err(|_| not_unescaped("key", ""))
            }
            _ => Err(no_such_route()),
        }
    }

    /// Whether somebody who has come in by `entrance` may ask for anything.
    pub fn admit(&self, uri: &Uri, headers: &HeaderMap, entrance: Entrance) -> Result<(), Denied> {
        // Whoever knows the token is no page in somebody's browser.
        let Some(token) = self.token else {
            let checked = match entrance.nameless {
                true => self.allowed.check_nameless(uri, headers),
                false => self.allowed.check(uri, headers, entrance.address),
            };
            return checked.map_err(Denied::Stranger);
        };
        let given = headers.get(TOKEN).ok_or(Denied::NoToken)?;
        let is_same = bool::from(given.as_bytes().ct_eq(token.expose().as_bytes()));
        if is_same { Ok(()) } else { Err(Denied::WrongToken) }
    }

    fn health(&self, query: &str) -> Result<Route, Answer> {
        let asked = query.split('&').find_map(|parameter| parameter.strip_prefix("appid="));
        match asked.map(query::unescape) {
            Some(Ok(app_id)) if app_id != self.app_id => {
                let message = "dapr app-id does not match";
                Err(answer::error(StatusCode::INTERNAL_SERVER_ERROR, "ERR_HEALTH_APPID_NOT_MATCH", message, &[]))
            }
            _ => Ok(Route::Health),
        }
    }
}

/// What the path has for `parameter`.
fn parameter(parameter: &str, segment: &str) -> Result<String, Answer> {
    let bad = |escape| not_unescaped(parameter, &format!(". Error: invalid URL escape {escape:?}"));
    query::unescape(segment).map_err(bad)
}

fn not_unescaped(parameter: &str, why: &str) -> Answer {
    let what = format!("failed to unescape request parameter {parameter:?}{why}");
    answer::text(StatusCode::BAD_REQUEST, &what)
}

/// The path with repeated slashes made one and one trailing slash removed.
fn clean(path: &str) -> String {
    let mut clean = String::with_capacity(path.len());
    for c in path.chars() {
        if !(c == '/' && clean.ends_with('/')) {
            clean.push(c);
        }
    }
    if clean.len() > 1 && clean.ends_with('/') {
        clean.pop();
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_as_daprd_cleans_them() {
        for (path, expected) in [
            ("/v1.0/bindings/x", "/v1.0/bindings/x"),
            ("//v1.0///bindings/x/", "/v1.0/bindings/x"),
            ("/v1.0/bindings/x//", "/v1.0/bindings/x"),
            ("/", "/"),
            ("", ""),
        ] {
            assert_eq!(clean(path), expected);
        }
    }

    #[test]
    fn lists_take_away_what_daprds_would() {
        let lists = |allowed: &[&str], denied: &[&str]| Lists {
            allowed: allowed.iter().map(|&rule| rule.to_owned()).collect(),
            denied: denied.iter().map(|&rule| rule.to_owned()).collect(),
        };
        let permitted = |lists: Lists| {
            let invoke = |form| Route::Invoke("x".into(), form);
            let [envelope, bare] = [Form::Envelope, Form::Bare("create".into())].map(invoke);
            let routes = [envelope, bare, Route::Metadata, Route::SetMetadata("k".into())];
            routes.map(|route| lists.permit(route).is_ok())
        };
        for (allowed, denied, expected) in [
            (&[][..], &[][..], [true, true, true, true]),
            (&["v1/bindings"], &[], [true, true, false, false]),
            (&["v1/state"], &[], [false, false, false, false]),
            (&[], &["v1/metadata"], [true, true, false, false]),
            (&["v1/bindings"], &["v1/bindings"], [false, false, false, false]),
            // As they were written before there were groups.
            (&["v1.0/bindings"], &[], [true, true, false, false]),
            (&["v1.0/bindings"], &["v1.0/bindings/{name}/"], [true, false, false, false]),
            (&["v1.0/bindings/{name}/{operation}"], &[], [false, true, false, false]),
            (&[], &["v1.0/metadata/"], [true, true, true, false]),
            (&[], &["v1/binding", "v2/bindings"], [true, true, true, true]),
        ] {
            assert_eq!(permitted(lists(allowed, denied)), expected, "{allowed:?} {denied:?}");
        }
        let nothing = lists(&["v1/nothing"], &["v1/healthz", "v1.0/"]);
        for route in [Route::Health, Route::OutboundHealth, Route::Callback("x".into())] {
            assert!(nothing.permit(route).is_ok());
        }
        let answer = nothing.permit(Route::Metadata).unwrap_err();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        assert!(answer.body().starts_with(br#"{"errorCode":"ERR_DIRECT_INVOKE""#));
    }
}
