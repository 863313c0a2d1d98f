//! The component's export: one message, posted once.

use dingtalk_api::delivery::MAX_ANSWER;
use dingtalk_api::delivery::application::{Application, Trouble};
use dingtalk_api::trouble_of;
use dingtalk_api::unread::Unread;
use dingtalk_binding::contract::Event;
use dingtalk_binding::error::HandlerError;
use dingtalk_wasi::{deadline, environment, fields, read, wait, write};
use http::uri::Scheme;
use wasi::http::outgoing_handler;
use wasi::http::types::{
    ErrorCode, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme as WasiScheme,
};

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
        world: "dingtalk:component/delivery",
        with: {
            "dingtalk:binding/types@0.2.0": dingtalk_binding::contract,
            "wasi:cli/environment@0.2.12": wasi::cli::environment,
            "wasi:clocks/monotonic-clock@0.2.12": wasi::clocks::monotonic_clock,
            "wasi:http/outgoing-handler@0.2.12": wasi::http::outgoing_handler,
            "wasi:http/types@0.2.12": wasi::http::types,
            "wasi:io/error@0.2.12": wasi::io::error,
            "wasi:io/poll@0.2.12": wasi::io::poll,
            "wasi:io/streams@0.2.12": wasi::io::streams,
        },
    });

    export!(Component with_types_in self);
    use super::Component;
}

use bindings::exports::dingtalk::binding::handler;

struct Component;

impl handler::Guest for Component {
    fn handle(event: Event) -> Result<Option<Vec<u8>>, HandlerError> {
        let application = Application::taking(&environment())?;
        let unreachable = |code: ErrorCode| application.unreachable(trouble_of!(ErrorCode, code));
        let end = deadline(application.timeout);
        let broken = || application.unreachable(Trouble::Broken);
        let request = request(&application, &event).ok_or_else(|| application.unreachable(Trouble::Refused))?;
        let body = request.body().map_err(|()| broken())?;
        let options = RequestOptions::new();
        let nanos = u64::try_from(application.timeout.as_nanos()).unwrap_or(u64::MAX);
        // A runtime may not support a time limit; it then applies its own.
        let _ = options.set_connect_timeout(Some(nanos));
        let _ = options.set_first_byte_timeout(Some(nanos));
        let _ = options.set_between_bytes_timeout(Some(nanos));
        let response = outgoing_handler::handle(request, Some(options)).map_err(unreachable)?;
        if let Ok(stream) = body.write() {
            write(&stream, &event.data, end);
        }
        let _ = OutgoingBody::finish(body, None);
        // The runtime's limits are for its parts, if it has any: this one is for the whole.
        if !wait(&response.subscribe(), end) {
            return Err(application.unreachable(Trouble::Slow));
        }
        let Some(Ok(response)) = response.get() else { return Err(broken()) };
        let response = response.map_err(unreachable)?;
        application.answered(&event, response.status(), answer(&response, end))
    }
}

fn request(application: &Application, event: &Event) -> Option<OutgoingRequest> {
    let request = OutgoingRequest::new(fields(&application.headers(event), Some(event.data.len())));
    let scheme = if application.scheme == Scheme::HTTPS { WasiScheme::Https } else { WasiScheme::Http };
    request.set_method(&Method::Post).ok()?;
    request.set_scheme(Some(&scheme)).ok()?;
    request.set_authority(Some(application.authority.as_str())).ok()?;
    request.set_path_with_query(Some(&application.path(&event.id))).ok()?;
    Some(request)
}

fn answer(response: &IncomingResponse, end: u64) -> Result<Vec<u8>, Unread> {
    let body = response.consume().map_err(|()| Unread::Incomplete)?;
    let stream = body.stream().map_err(|()| Unread::Incomplete)?;
    read(&stream, MAX_ANSWER, 0, end)
}
