//! The component's export: one request, and the order in which the pure modules, the binding and the outside are asked.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use dingtalk_api::invoke::{self, Failed, InvokeError, undecodable};
use dingtalk_api::limits::{BODY_TIMEOUT, CALLBACK_TIMEOUT, MAX_BODY as MAX_REQUEST};
use dingtalk_api::metadata::{Component as Listed, Metadata};
use dingtalk_api::route::{Access, Entrance, Route};
use dingtalk_api::unread::{self, Unread};
use dingtalk_api::{Answer, answer, callback, metadata, request};
use dingtalk_binding::callback::{MAX_BODY, verify};
use dingtalk_binding::contract::{Callback, InvokeRequest, InvokeResponse};
use dingtalk_binding::error::{self, Outcome, PropertyError, ReceiveError};
use dingtalk_binding::operation::OPERATIONS;
use dingtalk_wasi::{deadline, drain, environment, fields, headers, log, now, read, write};
use http::header::CONTENT_LENGTH;
use http::{Method, Request, StatusCode, Uri};
use wasi::http::types::{
    IncomingBody, IncomingRequest, Method as WasiMethod, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

use crate::settings::{Callers, NAMES, Robot, Robots, Wrong};

/// What a component file would say.
const TYPE: &str = "bindings.dingtalk.webhook";
const VERSION: &str = "v1";

#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "generated from wit/, where the documentation is"
)]
mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit", "../../wit/component"],
        world: "dingtalk:component/front",
        with: {
            "dingtalk:binding/types@0.2.0": dingtalk_binding::contract,
            "dingtalk:binding/init@0.2.0": generate,
            "dingtalk:binding/invoke@0.2.0": generate,
            "dingtalk:binding/read@0.2.0": generate,
            "wasi:cli/environment@0.2.12": wasi::cli::environment,
            "wasi:cli/stderr@0.2.12": wasi::cli::stderr,
            "wasi:clocks/monotonic-clock@0.2.12": wasi::clocks::monotonic_clock,
            "wasi:clocks/wall-clock@0.2.12": wasi::clocks::wall_clock,
            "wasi:http/types@0.2.12": wasi::http::types,
            "wasi:io/error@0.2.12": wasi::io::error,
            "wasi:io/poll@0.2.12": wasi::io::poll,
            "wasi:io/streams@0.2.12": wasi::io::streams,
        },
    });

    export!(Component with_types_in self);
    use super::Component;
}

use bindings::dingtalk::binding as contract;
use bindings::exports::wasi::http::incoming_handler;

struct Component;

impl incoming_handler::Guest for Component {
    fn handle(incoming: IncomingRequest, out: ResponseOutparam) {
        let answer = match head(&incoming) {
            Ok(request) => serve(&request, &incoming),
            Err(what) => answer::text(StatusCode::BAD_REQUEST, what),
        };
        respond(answer, out);
    }
}

/// Method, target and headers. The name under which we were called stands in the target.
fn head(incoming: &IncomingRequest) -> Result<Request<()>, &'static str> {
    let method = match incoming.method() {
        WasiMethod::Get => Method::GET,
        WasiMethod::Head => Method::HEAD,
        WasiMethod::Post => Method::POST,
        WasiMethod::Put => Method::PUT,
        WasiMethod::Delete => Method::DELETE,
        WasiMethod::Connect => Method::CONNECT,
        WasiMethod::Options => Method::OPTIONS,
        WasiMethod::Trace => Method::TRACE,
        WasiMethod::Patch => Method::PATCH,
        WasiMethod::Other(name) => {
            Method::from_bytes(name.as_bytes()).map_err(|_| "the request's method has characters that none may have")?
        }
    };
    let path = incoming.path_with_query().unwrap_or_else(|| "/".into());
    let mut uri = Uri::builder().path_and_query(path);
    if let Some(authority) = incoming.authority().filter(|authority| !authority.is_empty()) {
        uri = uri.scheme("http").authority(authority);
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri
        .build()
        .map_err(|_| "the request's path or host has characters that must be escaped; escape them with %")?;
    // As in HTTP/2, the name under which we were called is no header here.
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = headers(&incoming.headers());
    Ok(request)
}

fn serve(request: &Request<()>, incoming: &IncomingRequest) -> Answer {
    let environment = environment();
    let Callers { app_id, token, allowed } = Callers::of(&environment);
    let access = Access { app_id: &app_id, token: token.as_ref(), allowed: &allowed, names: &NAMES };
    let route = match access.route(request, Entrance::default()) {
        Ok(route) => route,
        Err(answer) => return answer,
    };
    let robots = Robots::of(&environment);
    match route {
        Route::OutboundHealth => answer::empty(StatusCode::NO_CONTENT),
        Route::Health => match robots.and_then(|robots| robots.check(&environment)) {
            Ok(()) => answer::empty(StatusCode::NO_CONTENT),
            Err(wrong) => misconfigured("ERR_HEALTH_NOT_READY", &wrong),
        },
        // Who sends it learns nothing of what is wrong with us.
        Route::Callback(name) => match robots {
            Ok(robots) => receive(&name, &robots, request, incoming),
            Err(wrong) => {
                log(&format!("callback not acknowledged: {wrong}"));
                callback::broken()
            }
        },
        _ => match robots {
            Err(wrong) => misconfigured("ERR_CONFIGURATION", &wrong),
            Ok(robots) => match route {
                Route::Invoke(name) => perform(&name, &robots, request, incoming),
                Route::SetMetadata(_) => {
                    let message = "the gateway remembers nothing from one request to the next: no attribute can be set";
                    answer::error(StatusCode::NOT_IMPLEMENTED, "ERR_NOT_IMPLEMENTED", message, &[])
                }
                _ => {
                    let listed = robots.names().map(|name| Listed::new(name, TYPE, VERSION, true, true));
                    metadata::answer(&Metadata::new(&app_id, listed.collect(), Default::default()))
                }
            },
        },
    }
}

fn misconfigured(code: &str, wrong: &Wrong) -> Answer {
    log(&wrong.to_string());
    answer::error(StatusCode::INTERNAL_SERVER_ERROR, code, &wrong.to_string(), &[])
}

/// Why the binding could not do it.
#[derive(Debug)]
enum Failure {
    /// A property, whose error is told without its reason: that may quote the value.
    Misconfigured(Wrong, Vec<(String, String)>),
    Binding(error::InvokeError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misconfigured(wrong, _) => write!(f, "dingtalk configuration error: {wrong}"),
            Self::Binding(error) => error.fmt(f),
        }
    }
}

impl invoke::Failure for Failure {
    fn posted(&self) -> Outcome {
        match self {
            Self::Misconfigured(..) => Outcome::NotSent,
            Self::Binding(error) => error.posted(),
        }
    }

    fn metadata(&self) -> Vec<(String, String)> {
        match self {
            Self::Misconfigured(_, metadata) => metadata.clone(),
            Self::Binding(error) => error.metadata(),
        }
    }
}

fn perform(name: &str, robots: &Robots<'_>, request: &Request<()>, incoming: &IncomingRequest) -> Answer {
    let body = match body(request, incoming, MAX_REQUEST, BODY_TIMEOUT) {
        Ok(body) => body,
        Err(Unread::TooLong) => {
            return undecodable(&unread::too_long(MAX_REQUEST, "the gateway takes no more")).into();
        }
        Err(Unread::Incomplete) => return undecodable(unread::INCOMPLETE).into(),
        Err(Unread::TooSlow) => return undecodable(&unread::too_slow(BODY_TIMEOUT.as_secs())).into(),
    };
    let call = match invoke::complete(request.headers(), request::decode(&body)) {
        Ok(call) => call,
        Err(answer) => return answer,
    };
    let result = invoke(name, robots, &call);
    if let Err(InvokeError::Call(error)) = &result {
        log(&format!("invocation of {} of {name} failed: {error}", call.operation));
    }
    match result {
        Ok(response) => invoke::answer::<Failure>(name, Ok(response)),
        Err(error) => invoke::answer(name, Err(&error)),
    }
}

fn invoke(name: &str, robots: &Robots<'_>, call: &InvokeRequest) -> Result<InvokeResponse, InvokeError<Failure>> {
    let robot = robots.get(name);
    invoke::check(name, &call.operation, robot.map(|_| OPERATIONS.as_slice()))?;
    let robot = robot.ok_or_else(|| InvokeError::NotFound(name.to_owned()))?;
    let failed = |failure| Failed::new(failure, invoke::has_uuid(call));
    configure(robot).map_err(|error| failed(Failure::Misconfigured(robot.wrong(&error), error.metadata())))?;
    contract::invoke::invoke(call).map_err(|error| failed(Failure::Binding(error)).into())
}

/// Makes the composed binding this robot's, with its input side: whether anybody takes a message is for the composed
/// handler to say.
fn configure(robot: &Robot<'_>) -> Result<(), PropertyError> {
    contract::init::init(&robot.properties())?;
    // It is initialised.
    let _ = contract::read::read();
    Ok(())
}

fn receive(name: &str, robots: &Robots<'_>, request: &Request<()>, incoming: &IncomingRequest) -> Answer {
    if let Err(answer) = callback::check(request.method()) {
        return answer;
    }
    let Some(robot) = robots.get(name) else { return callback::not_found(name) };
    let unaccepted = |error: &ReceiveError| {
        log(&format!("callback for {name}: {error}"));
        callback::refused(error)
    };
    let misconfigured = |error: &PropertyError| {
        log(&format!("callback for {name} not acknowledged: {}", robot.wrong(error)));
        callback::broken()
    };
    // The binding checks it all once more. Here, so that no stranger holds an instance for the time of a body.
    let settings = match robot.settings() {
        Ok(settings) => settings,
        Err(error) => return misconfigured(&error),
    };
    let headers: Vec<_> = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    if let Err(refusal) = verify(&settings.callbacks, headers.iter().copied(), now()) {
        return unaccepted(&ReceiveError::Refused(refusal));
    }
    let body = match body(request, incoming, MAX_BODY, CALLBACK_TIMEOUT) {
        Ok(body) => body,
        Err(Unread::TooLong) => return callback::too_large(),
        Err(Unread::Incomplete) => return callback::incomplete(),
        Err(Unread::TooSlow) => return callback::too_slow(),
    };
    if let Err(error) = configure(robot) {
        return misconfigured(&error);
    }
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
    match contract::read::receive(&Callback { headers, body }) {
        Ok(reply) => callback::replied(reply),
        Err(error) => unaccepted(&error),
    }
}

fn body(request: &Request<()>, incoming: &IncomingRequest, limit: usize, time: Duration) -> Result<Vec<u8>, Unread> {
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let body: IncomingBody = incoming.consume().map_err(|()| Unread::Incomplete)?;
    let stream = body.stream().map_err(|()| Unread::Incomplete)?;
    let whole = read(&stream, limit, announced.unwrap_or_default(), deadline(time));
    if whole == Err(Unread::TooLong) {
        drain(&stream);
    }
    whole
}

fn respond(answer: Answer, out: ResponseOutparam) {
    let (parts, body) = answer.into_parts();
    let body: Bytes = body;
    // RFC 9110: a 204 has no length.
    let length = (parts.status != StatusCode::NO_CONTENT).then_some(body.len());
    let response = OutgoingResponse::new(fields(&parts.headers, length));
    // `StatusCode` has no other numbers than those that a status can be.
    let _ = response.set_status_code(parts.status.as_u16());
    let to = response.body();
    ResponseOutparam::set(out, Ok(response));
    let Ok(to) = to else { return };
    if let Ok(stream) = to.write() {
        // Who reads slower than others send holds an instance for nothing.
        write(&stream, &body, deadline(BODY_TIMEOUT));
    }
    let _ = OutgoingBody::finish(to, None);
}
