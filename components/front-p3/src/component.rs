//! The component's export: reads what the request brings, and asks the binding.

use dingtalk_api::limits::BODY_TIMEOUT;
use dingtalk_gateway_core::service::{Asked, Call, CallbackError, Told, begin};
use dingtalk_gateway_core::{method_of, wire};
use dingtalk_wasi_p3::bindings::wasi::http::types::{ErrorCode, Method, Request, Response};
use dingtalk_wasi_p3::{Incoming, deadline, environment, headers, log, now, response};
use http::StatusCode;

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
        path: ["../../wit", "../../wit/component/p3"],
        world: "dingtalk:component-p3/front",
        with: {
            "dingtalk:binding/types@0.2.0": dingtalk_binding::contract,
            "dingtalk:component-p3/shared@0.2.0": generate,
            "wasi:cli/environment@0.3.0": dingtalk_wasi_p3::bindings::wasi::cli::environment,
            "wasi:cli/stderr@0.3.0": dingtalk_wasi_p3::bindings::wasi::cli::stderr,
            "wasi:cli/types@0.3.0": dingtalk_wasi_p3::bindings::wasi::cli::types,
            "wasi:clocks/monotonic-clock@0.3.0": dingtalk_wasi_p3::bindings::wasi::clocks::monotonic_clock,
            "wasi:clocks/system-clock@0.3.0": dingtalk_wasi_p3::bindings::wasi::clocks::system_clock,
            "wasi:clocks/types@0.3.0": dingtalk_wasi_p3::bindings::wasi::clocks::types,
            "wasi:http/types@0.3.0": dingtalk_wasi_p3::bindings::wasi::http::types,
        },
    });

    export!(Component with_types_in self);
    use super::Component;
}

use bindings::dingtalk::component_p3::shared;
use bindings::exports::wasi::http::handler;

struct Component;

impl handler::Guest for Component {
    async fn handle(incoming: Request) -> Result<Response, ErrorCode> {
        let Told { answer, line } = match head(&incoming) {
            Ok(request) => serve(&request, incoming).await.unwrap_or_else(|told| told),
            Err(what) => Told::no_request(what),
        };
        if let Some(line) = &line {
            log(line).await;
        }
        let (parts, body) = answer.into_parts();
        // RFC 9110: a 204 has no length.
        let length = (parts.status != StatusCode::NO_CONTENT).then_some(body.len());
        Ok(response(parts.status.as_u16(), &parts.headers, length, body.into(), BODY_TIMEOUT))
    }
}

fn head(incoming: &Request) -> Result<http::Request<()>, &'static str> {
    let method = method_of!(Method, incoming.get_method());
    let headers = headers(&incoming.get_headers());
    wire::request(method, incoming.get_path_with_query(), incoming.get_authority(), headers)
}

async fn serve(request: &http::Request<()>, incoming: Request) -> Result<Told, Told> {
    let environment = environment();
    let wanted = begin(&environment, request, now())?;
    let mut body = Incoming::of_request(incoming);
    let whole = body.read(wanted.limit(), wanted.announced(), deadline(wanted.time())).await;
    if whole == Err(dingtalk_api::unread::Unread::TooLong) {
        body.drain().await;
    }
    let Call { robot, asked } = wanted.arrived(whole)?;
    Ok(match asked {
        Asked::Invoke(call, operation) => {
            let result = shared::invoke(robot.properties(), call).await;
            robot.invoked(&operation, result)
        }
        Asked::Receive(callback) => {
            let result = shared::receive(robot.properties(), callback).await;
            robot.received(result.map_err(|error| match error {
                shared::CallbackError::Init(error) => CallbackError::Init(error),
                shared::CallbackError::Receive(error) => CallbackError::Receive(error),
            }))
        }
    })
}
