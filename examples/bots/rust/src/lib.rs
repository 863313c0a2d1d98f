//! Answers "ping" with "pong", and repeats any other text.

use exports::dingtalk::binding::handler::{Event, Guest, HandlerError};
use serde_json::json;

wit_bindgen::generate!({ path: "../../../wit", world: "handler-app" });

struct Bot;

impl Guest for Bot {
    fn handle(event: Event) -> Result<Option<Vec<u8>>, HandlerError> {
        // A picture, for example, has no text: nothing to say.
        let Some((_, text)) = event.metadata.iter().find(|(name, _)| name == "text") else { return Ok(None) };
        let content = if text == "ping" { "pong" } else { text };
        let reply = json!({"msgtype": "text", "text": {"content": content}});
        serde_json::to_vec(&reply).map(Some).map_err(|error| HandlerError::Failed(error.to_string()))
    }
}

export!(Bot);
