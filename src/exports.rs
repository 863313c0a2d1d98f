//! The component's exports: one instance, one binding, and the order in which the pure modules and the outside are
//! asked.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use spin::Mutex;

use crate::contract::{self, CallError, Callback, InvokeRequest, InvokeResponse, Metadata, Reply};
use crate::error::{InvokeCause, InvokeError, PropertyError, ReadError, ReceiveError};
use crate::operation::{self, OPERATIONS};
use crate::receive;
use crate::settings::Settings;
use crate::transport;

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
        path: ["wit", "wit/component"],
        world: "dingtalk:component/binding",
        with: {
            "dingtalk:binding/types@0.2.0": crate::contract,
            "dingtalk:binding/handler@0.2.0": generate,
            "wasi:clocks/monotonic-clock@0.2.12": wasi::clocks::monotonic_clock,
            "wasi:clocks/wall-clock@0.2.12": wasi::clocks::wall_clock,
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

use bindings::dingtalk::binding::handler;
use bindings::exports::dingtalk::binding::{call, init, invoke, read};

struct Component;

/// This instance's binding.
struct Binding {
    settings: Settings,
    /// Between `read` and `close`.
    reading: bool,
}

/// Never waited for: an instance has one thread, and is not entered again before it has returned.
static BINDING: Mutex<Option<Binding>> = Mutex::new(None);

impl init::Guest for Component {
    fn init(properties: Metadata) -> Result<(), PropertyError> {
        let mut binding = BINDING.lock();
        *binding = None;
        let settings = Settings::parse(contract::pairs(&properties))?;
        *binding = Some(Binding { settings, reading: false });
        Ok(())
    }
}

impl invoke::Guest for Component {
    fn operations() -> Vec<String> {
        OPERATIONS.map(str::to_owned).to_vec()
    }

    fn invoke(request: InvokeRequest) -> Result<InvokeResponse, InvokeError> {
        let binding = BINDING.lock();
        let Binding { settings, reading } = binding.as_ref().ok_or(InvokeCause::NotInitialized)?;
        let start = transport::now();
        match operation::prepare(settings, *reading, &request, start)? {
            Some(post) => {
                let answer = transport::post(&post, start)?;
                Ok(InvokeResponse { data: None, metadata: operation::conclude(settings, &post, &answer)? })
            }
            None => {
                let answer = handler::handle(&operation::event(settings, request));
                Ok(InvokeResponse { data: operation::handed_on(settings, answer)?, metadata: Vec::new() })
            }
        }
    }
}

impl call::Guest for Component {
    fn call(properties: Metadata, request: InvokeRequest) -> Result<InvokeResponse, CallError> {
        <Self as init::Guest>::init(properties).map_err(CallError::Init)?;
        <Self as invoke::Guest>::invoke(request).map_err(CallError::Invoke)
    }
}

impl read::Guest for Component {
    fn read() -> Result<(), ReadError> {
        BINDING.lock().as_mut().ok_or(ReadError::NotInitialized)?.reading = true;
        Ok(())
    }

    fn close() {
        // Nothing was reading if there is no binding.
        if let Some(binding) = BINDING.lock().as_mut() {
            binding.reading = false;
        }
    }

    fn receive(callback: Callback) -> Result<Reply, ReceiveError> {
        let binding = BINDING.lock();
        let Binding { settings, reading } = binding.as_ref().ok_or(ReceiveError::NotInitialized)?;
        let Callback { headers, body } = callback;
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let event = receive::receive(settings, *reading, headers, body, transport::now())?;
        receive::answer(settings, handler::handle(&event))
    }
}
