//! Dapr's crate beside `dingtalk-host serve`: it sends over gRPC, receives what a person says, and answers it.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::time::Duration;

use dapr::Client;
use dapr::appcallback::*;
use dapr::client::AppApiTokenLayer;
use dapr::dapr::proto::runtime::v1::app_callback_server::{AppCallback, AppCallbackServer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

const ANSWER: &str = r#"{"msgtype":"text","text":{"content":"from Rust"}}"#;

struct Robot(mpsc::UnboundedSender<BindingEventRequest>);

#[async_trait::async_trait]
impl AppCallback for Robot {
    async fn on_invoke(&self, _: Request<InvokeRequest>) -> Result<Response<InvokeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_topic_subscriptions(
        &self,
        _: Request<()>,
    ) -> Result<Response<ListTopicSubscriptionsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn on_topic_event(&self, _: Request<TopicEventRequest>) -> Result<Response<TopicEventResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn on_bulk_topic_event(
        &self,
        _: Request<TopicEventBulkRequest>,
    ) -> Result<Response<TopicEventBulkResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn on_job_event(&self, _: Request<JobEventRequest>) -> Result<Response<JobEventResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_input_bindings(&self, _: Request<()>) -> Result<Response<ListInputBindingsResponse>, Status> {
        Ok(Response::new(ListInputBindingsResponse::binding("robot".into())))
    }

    async fn on_binding_event(
        &self,
        request: Request<BindingEventRequest>,
    ) -> Result<Response<BindingEventResponse>, Status> {
        self.0.send(request.into_inner()).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(BindingEventResponse { data: ANSWER.into(), ..Default::default() }))
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// What the simulator answers.
async fn ask(method: &str, path: &str, body: &Value) -> Result<Value, Box<dyn Error>> {
    let base = variable("ROBOT_BASE");
    let authority = base.trim_start_matches("http://");
    let mut stream = TcpStream::connect(authority).await?;
    let body = body.to_string();
    let length = body.len();
    // The end of the connection is the answer's.
    let head = format!("{method} {path} HTTP/1.0\r\nhost: {authority}\r\ncontent-length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    Ok(if body.is_empty() { Value::Null } else { serde_json::from_str(body)? })
}

async fn last() -> Result<Value, Box<dyn Error>> {
    let messages = ask("GET", "/messages", &Value::Null).await?;
    Ok(messages.as_array().and_then(|messages| messages.last()).cloned().unwrap_or_default())
}

fn check(name: &str, expected: &str, got: &str) {
    let verdict = if got == expected { "ok".to_owned() } else { format!("FAILED, expected {expected}") };
    println!("{verdict}\tdapr (Rust)\t{name}\t{got}");
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let secret = variable("ROBOT_SECRET");
    let (send, mut received) = mpsc::unbounded_channel();
    let address = format!("127.0.0.1:{}", variable("APP_PORT")).parse()?;
    let robot = AppCallbackServer::new(Robot(send));
    // Refuses whoever has not the host's token.
    let server = tonic::transport::Server::builder().layer(AppApiTokenLayer::from_env()).add_service(robot);
    tokio::spawn(server.serve(address));

    let mut client = Client::new().await?;
    let message = r#"{"msgtype":"text","text":{"content":"from the SDK"}}"#;
    let answer = client.invoke_binding("robot", message.into(), "create", None).await?;
    let seen = last().await?;
    let signed = |yes| if yes { " signed" } else { "" };
    let got = seen["message"]["text"]["content"].as_str().unwrap_or_default();
    let got = format!("{got}{}", signed(seen["signed"] == true));
    check("create, an object", &format!("from the SDK{}", signed(!secret.is_empty())), &got);
    check("create, its metadata", "0", answer.metadata.get("errcode").map_or("none", String::as_str));
    let metadata = HashMap::from([("msgtype".into(), "markdown".into()), ("title".into(), "title".into())]);
    client.invoke_binding("robot", b"short".to_vec(), "create", Some(metadata)).await?;
    check("create, with metadata", "markdown", last().await?["msgtype"].as_str().unwrap_or_default());
    let refused = client.invoke_binding("robot", br#"{"msgtype":"file"}"#.to_vec(), "create", None).await;
    let got = refused.map_or_else(|error| format!("{error:?}"), |_| "taken".into());
    let is_expected = got.contains("Internal") && got.contains("400105");
    check("create, refused by the robot", "Internal 400105", if is_expected { "Internal 400105" } else { &got });

    let answer = client.invoke_binding("robot", b"\0\xff".to_vec(), "get", None).await?;
    let patience = Duration::from_secs(30);
    let event = tokio::time::timeout(patience, received.recv()).await?.ok_or("nothing came")?;
    check("get, bytes", "[0, 255]", &format!("{:?}", event.data));
    check("get, the answer", ANSWER, &String::from_utf8_lossy(&answer.data));
    if secret.is_empty() {
        return Ok(());
    }
    let url = format!("http://127.0.0.1:{}/v1.0/bindings/robot/callback", variable("DAPR_HTTP_PORT"));
    ask("PUT", "/callback-url", &json!({"url": url})).await?;
    let said = ask("POST", "/say", &json!({"text": "hello"})).await?;
    let attempts = said["attempts"].as_array().ok_or("nothing was said")?;
    check("what a person says, acknowledged", "200", &attempts[attempts.len() - 1]["status"].to_string());
    let event = tokio::time::timeout(patience, received.recv()).await?.ok_or("nothing came")?;
    let data: Value = serde_json::from_slice(&event.data)?;
    check("what a person says, received", "hello", data["text"]["content"].as_str().unwrap_or_default().trim());
    check("what a person says, answered", "from Rust", said["reply"]["text"]["content"].as_str().unwrap_or_default());
    Ok(())
}
