//! The component's export: asks the store, then the next handler, then the store again.

use dingtalk_binding::contract::Event;
use dingtalk_binding::error::HandlerError;

use crate::memory::{Known, Message};

/// Names the store; runtimes call their first one "default".
const STORE: &str = "DINGTALK_STORE";
const DEFAULT: &str = "default";

/// The bindings of a world with this store.
macro_rules! bindings {
    ($world:literal, $store:literal, $package:ident) => {
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
                world: $world,
                with: {
                    "dingtalk:binding/types@0.2.0": dingtalk_binding::contract,
                    "dingtalk:binding/handler@0.2.0": generate,
                    "wasi:cli/environment@0.2.12": generate,
                    $store: generate,
                },
            });

            export!(Component with_types_in self);
            use super::Component;
        }

        use bindings::wasi::$package::store::{self, Bucket, Error};
    };
}

#[cfg(not(feature = "spin"))]
bindings!("dingtalk:component/remember", "wasi:keyvalue/store@0.2.0-draft", keyvalue0_2_0_draft);
#[cfg(feature = "spin")]
bindings!("dingtalk:component/remember-spin", "wasi:keyvalue/store@0.2.0-draft2", keyvalue0_2_0_draft2);

use bindings::dingtalk::binding::handler as next;
use bindings::exports::dingtalk::binding::handler;
use bindings::wasi::cli::environment;

struct Component;

impl handler::Guest for Component {
    fn handle(event: Event) -> Result<Option<Vec<u8>>, HandlerError> {
        let Some(message) = Message::of(&event) else { return next::handle(&event) };
        // Without a memory the message is not taken: DingTalk sends it again.
        let bucket = open()?;
        let entry = bucket.get(&message.key).map_err(|error| failed("read", &error))?;
        match message.known(entry.as_deref()) {
            Known::Another => Err(HandlerError::Reused),
            Known::Answered(answer) => Ok(answer),
            Known::Nothing => {
                let answer = next::handle(&event)?;
                // The application has taken it. If that cannot be kept, it may get a copy, which is no reason to say
                // that it has not.
                let _ = bucket.set(&message.key, &message.entry(answer.as_deref()));
                Ok(answer)
            }
        }
    }
}

fn open() -> Result<Bucket, HandlerError> {
    let environment = environment::get_environment();
    let name = environment.iter().find(|(name, value)| name == STORE && !value.is_empty());
    store::open(name.map_or(DEFAULT, |(_, value)| value)).map_err(|error| failed("opened", &error))
}

fn failed(what: &str, error: &Error) -> HandlerError {
    let why = match error {
        Error::NoSuchStore => "there is none of this name",
        Error::AccessDenied => "this component may not use it",
        // Its own text could be anything.
        Error::Other(_) => "see the runtime's log",
    };
    HandlerError::Failed(format!(
        "the key-value store cannot be {what}: {why}; {STORE} names it, \"{DEFAULT}\" unless set"
    ))
}
