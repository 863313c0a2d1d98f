//! The component's export: one message, posted once.

use dingtalk_api::delivery::MAX_ANSWER;
use dingtalk_api::delivery::application::{Application, Trouble};
use dingtalk_api::trouble_of;
use dingtalk_binding::contract::Event;
use dingtalk_binding::error::HandlerError;
use dingtalk_binding::failure::nanos;
use dingtalk_gateway_core::wire::announced;
use dingtalk_wasi_p3::bindings::wasi::http::client;
use dingtalk_wasi_p3::bindings::wasi::http::types::{ErrorCode, Method, Request, RequestOptions, Scheme as WasiScheme};
use dingtalk_wasi_p3::{Incoming, Outgoing, Sent, alongside, deadline, environment, headers, request, within};
use http::uri::Scheme;

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
        world: "dingtalk:component-p3/delivery",
        with: {
            "dingtalk:binding/types@0.2.0": dingtalk_binding::contract,
            "wasi:cli/environment@0.3.0": dingtalk_wasi_p3::bindings::wasi::cli::environment,
            "wasi:clocks/monotonic-clock@0.3.0": dingtalk_wasi_p3::bindings::wasi::clocks::monotonic_clock,
            "wasi:clocks/types@0.3.0": dingtalk_wasi_p3::bindings::wasi::clocks::types,
            "wasi:http/client@0.3.0": dingtalk_wasi_p3::bindings::wasi::http::client,
            "wasi:http/types@0.3.0": dingtalk_wasi_p3::bindings::wasi::http::types,
        },
    });

    export!(Component with_types_in self);
    use super::Component;
}

use bindings::exports::dingtalk::component_p3::handler;

struct Component;

impl handler::Guest for Component {
    async fn handle(event: Event) -> Result<Option<Vec<u8>>, HandlerError> {
        let application = Application::taking(&environment())?;
        let end = deadline(application.timeout);
        let refused = || application.unreachable(Trouble::Refused);
        let (request, body, _sent) = post(&application, &event).ok_or_else(refused)?;
        // An application may answer before it has read everything, and what counts is its answer.
        alongside(answer(&application, &event, request, end), body.write(event.data.clone())).await
    }
}

async fn answer(
    application: &Application,
    event: &Event,
    request: Request,
    end: u64,
) -> Result<Option<Vec<u8>>, HandlerError> {
    // The runtime's limits are for its parts, if it has any: this one is for the whole.
    let response = within(end, client::send(request)).await.ok_or_else(|| application.unreachable(Trouble::Slow))?;
    let response = response.map_err(|code| application.unreachable(trouble_of!(ErrorCode, code)))?;
    let (status, announced) = (response.get_status_code(), announced(&headers(&response.get_headers())));
    let answer = Incoming::of_response(response).read(MAX_ANSWER, announced, end).await;
    application.answered(event, status, answer)
}

fn post(application: &Application, event: &Event) -> Option<(Request, Outgoing, Sent)> {
    let options = RequestOptions::new();
    // A runtime may not support a time limit; it then applies its own.
    let time = Some(nanos(application.timeout));
    let _ = options.set_connect_timeout(time);
    let _ = options.set_first_byte_timeout(time);
    let _ = options.set_between_bytes_timeout(time);
    let (request, body, sent) = request(&application.headers(event), event.data.len(), options);
    let scheme = if application.scheme == Scheme::HTTPS { WasiScheme::Https } else { WasiScheme::Http };
    request.set_method(&Method::Post).ok()?;
    request.set_scheme(Some(&scheme)).ok()?;
    request.set_authority(Some(application.authority.as_str())).ok()?;
    request.set_path_with_query(Some(&application.path(&event.id))).ok()?;
    Some((request, body, sent))
}
