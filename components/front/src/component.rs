//! The component's export: reads what the request brings, and asks the binding.

use dingtalk_api::Answer;
use dingtalk_api::limits::BODY_TIMEOUT;
use dingtalk_api::unread::Unread;
use dingtalk_binding::contract::CallError;
use dingtalk_binding::error::PropertyError;
use dingtalk_gateway_core::service::{Asked, Call, CallbackError, Told, Wanted, begin};
use dingtalk_gateway_core::settings::Robot;
use dingtalk_gateway_core::{method_of, wire};
use dingtalk_wasi::{deadline, drain, environment, fields, headers, log, now, read, write};
use http::{Request, StatusCode};
use wasi::http::types::{IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam};

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
        let told = match head(&incoming) {
            Ok(request) => serve(&request, &incoming).unwrap_or_else(|told| told),
            Err(what) => Told::no_request(what),
        };
        if let Some(line) = &told.line {
            log(line);
        }
        respond(told.answer, out);
    }
}

fn head(incoming: &IncomingRequest) -> Result<Request<()>, &'static str> {
    let method = method_of!(Method, incoming.method());
    wire::request(method, incoming.path_with_query(), incoming.authority(), headers(&incoming.headers()))
}

fn serve(request: &Request<()>, incoming: &IncomingRequest) -> Result<Told, Told> {
    let environment = environment();
    let wanted = begin(&environment, request, now())?;
    let body = body(&wanted, incoming);
    let Call { robot, asked } = wanted.arrived(body)?;
    Ok(match asked {
        Asked::Invoke(call, operation) => {
            let result = configure(&robot).map_err(CallError::Init);
            let result = result.and_then(|()| contract::invoke::invoke(&call).map_err(CallError::Invoke));
            robot.invoked(&operation, result)
        }
        Asked::Receive(callback) => {
            let result = configure(&robot).map_err(CallbackError::Init);
            let result = result.and_then(|()| contract::read::receive(&callback).map_err(CallbackError::Receive));
            robot.received(result)
        }
    })
}

/// Makes the composed binding this robot's, with its input side: whether anybody takes a message is for the composed
/// handler to say.
fn configure(robot: &Robot<'_>) -> Result<(), PropertyError> {
    contract::init::init(&robot.properties())?;
    // It is initialised.
    let _ = contract::read::read();
    Ok(())
}

fn body(wanted: &Wanted<'_>, incoming: &IncomingRequest) -> Result<Vec<u8>, Unread> {
    let body: IncomingBody = incoming.consume().map_err(|()| Unread::Incomplete)?;
    let stream = body.stream().map_err(|()| Unread::Incomplete)?;
    let whole = read(&stream, wanted.limit(), wanted.announced(), deadline(wanted.time()));
    if whole == Err(Unread::TooLong) {
        drain(&stream);
    }
    whole
}

fn respond(answer: Answer, out: ResponseOutparam) {
    let (parts, body) = answer.into_parts();
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
