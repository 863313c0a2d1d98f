//! An application for the input binding: whoever mentions the robot gets an answer.
//!
//! It is what every application behind Dapr's input bindings is: an HTTP server that takes `POST /{binding}` and
//! answers. The body is DingTalk's message; the answer's body is the robot's reply, or nothing.
//!
//! ```console
//! $ cargo run --package dingtalk-host --example echo -- 6001
//! $ dingtalk-host serve --resources-path resources --app-port 6001
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::net::Ipv4Addr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

/// What this application reads of a message; there is more in it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    msgtype: Option<String>,
    sender_nick: Option<String>,
    text: Option<Text>,
    /// Not DingTalk's: what the specification's example hands over with the operation `get`.
    message: Option<String>,
}

#[derive(Deserialize)]
struct Text {
    content: String,
}

/// The reply to a message; `None` says nothing.
fn reply(message: &Message) -> Option<serde_json::Value> {
    let who = message.sender_nick.as_deref().unwrap_or("somebody");
    let text = message.text.as_ref().map(|text| &text.content).or(message.message.as_ref());
    // In a group, the text begins with the blank that stood behind the mention.
    let content = match (text.map(|text| text.trim()), message.msgtype.as_deref()) {
        (Some("ping"), _) => "pong".to_owned(),
        (Some("help"), _) => {
            let text = "- **ping**: I answer\n- anything else: I repeat it";
            return Some(json!({"msgtype": "markdown", "markdown": {"title": "Help", "text": text}}));
        }
        (Some(text), _) => format!("{who} said: {text}"),
        (None, Some(msgtype)) => format!("{who} sent {msgtype}"),
        // A notice of DingTalk's, for example that the month's allowance is used up.
        (None, None) => return None,
    };
    Some(json!({"msgtype": "text", "text": {"content": content}}))
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    // The host asks with OPTIONS whether this application reads from the binding; any 2xx says so.
    if request.method() == Method::OPTIONS {
        return Ok(response);
    }
    let body = Limited::new(request.into_body(), 128 * 1024).collect().await;
    // 422 says "never again": with an inbox, the host puts the message on its list of dead ones.
    let Some(message) = body.ok().and_then(|body| serde_json::from_slice::<Message>(&body.to_bytes()).ok()) else {
        *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
        return Ok(response);
    };
    if let Some(reply) = reply(&message) {
        *response.body_mut() = Full::from(reply.to_string());
    }
    Ok(response)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).as_deref().unwrap_or("6001").parse()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}
