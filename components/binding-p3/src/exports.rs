//! The component's exports: one instance, one binding, and the order in which the pure modules and the outside are
//! asked. As src/exports.rs, but that a call may begin while others wait.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use dingtalk_binding::contract::{self, CallError, Callback, Event, InvokeRequest, InvokeResponse, Metadata, Reply};
use dingtalk_binding::error::{InvokeCause, InvokeError, PropertyError, ReadError, ReceiveError};
use dingtalk_binding::operation::{self, OPERATIONS};
use dingtalk_binding::receive;
use dingtalk_binding::settings::Settings;
use spin::Mutex;

use crate::transport;

#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "generated from wit/, where the documentation is"
)]
pub(crate) mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit", "../../wit/component/p3"],
        world: "dingtalk:component-p3/binding",
        with: { "dingtalk:binding/types@0.2.0": dingtalk_binding::contract },
        generate_all,
    });

    export!(Component with_types_in self);
    use super::Component;
}

use bindings::dingtalk::component_p3::handler;
use bindings::exports::dingtalk::binding::init;
use bindings::exports::dingtalk::component_p3::{call, invoke, read, shared};

struct Component;

/// This instance's binding.
struct Binding {
    /// Shared with the calls that have begun: `init` replaces it for those to come.
    settings: Arc<Settings>,
    /// Between `read` and `close`.
    reading: bool,
}

/// Never waited for: an instance has one thread, and no call holds it while it waits.
static BINDING: Mutex<Option<Binding>> = Mutex::new(None);

/// What a call goes by from its beginning to its end.
fn binding() -> Option<(Arc<Settings>, bool)> {
    BINDING.lock().as_ref().map(|binding| (Arc::clone(&binding.settings), binding.reading))
}

impl init::Guest for Component {
    fn init(properties: Metadata) -> Result<(), PropertyError> {
        let mut binding = BINDING.lock();
        *binding = None;
        let settings = Arc::new(Settings::parse(contract::pairs(&properties))?);
        *binding = Some(Binding { settings, reading: false });
        Ok(())
    }
}

impl invoke::Guest for Component {
    fn operations() -> Vec<String> {
        OPERATIONS.map(str::to_owned).to_vec()
    }

    async fn invoke(request: InvokeRequest) -> Result<InvokeResponse, InvokeError> {
        let (settings, reading) = binding().ok_or(InvokeCause::NotInitialized)?;
        perform(&settings, reading, request).await
    }
}

impl call::Guest for Component {
    async fn call(properties: Metadata, request: InvokeRequest) -> Result<InvokeResponse, CallError> {
        <Self as init::Guest>::init(properties).map_err(CallError::Init)?;
        <Self as invoke::Guest>::invoke(request).await.map_err(CallError::Invoke)
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

    async fn receive(callback: Callback) -> Result<Reply, ReceiveError> {
        let (settings, reading) = binding().ok_or(ReceiveError::NotInitialized)?;
        answer(&settings, reading, callback).await
    }
}

/// Without the instance's variable.
impl shared::Guest for Component {
    async fn invoke(properties: Metadata, request: InvokeRequest) -> Result<InvokeResponse, CallError> {
        let settings = Settings::parse(contract::pairs(&properties)).map_err(CallError::Init)?;
        perform(&settings, true, request).await.map_err(CallError::Invoke)
    }

    async fn receive(properties: Metadata, callback: Callback) -> Result<Reply, shared::CallbackError> {
        let settings = Settings::parse(contract::pairs(&properties)).map_err(shared::CallbackError::Init)?;
        answer(&settings, true, callback).await.map_err(shared::CallbackError::Receive)
    }
}

/// One operation, from its beginning to its end by `settings`.
async fn perform(settings: &Settings, reading: bool, request: InvokeRequest) -> Result<InvokeResponse, InvokeError> {
    let start = transport::now();
    match operation::prepare(settings, reading, &request, start)? {
        Some(post) => {
            let answer = transport::post(&post, start).await?;
            Ok(InvokeResponse { data: None, metadata: operation::conclude(settings, &post, &answer)? })
        }
        None => {
            let event = Event { id: settings.id.clone(), data: request.data, metadata: request.metadata };
            let answer = handler::handle(event).await;
            Ok(InvokeResponse { data: operation::handed_on(settings, answer)?, metadata: Vec::new() })
        }
    }
}

/// One callback, from its beginning to its end by `settings`.
async fn answer(settings: &Settings, reading: bool, callback: Callback) -> Result<Reply, ReceiveError> {
    let Callback { headers, body } = callback;
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let event = receive::receive(settings, reading, headers, body, transport::now())?;
    receive::answer(settings, handler::handle(event).await)
}
