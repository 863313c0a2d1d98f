//! What calls cost in instructions, held to the table in docs/performance.md, and in memory. Neither depends on the
//! machine, so that a call which becomes dearer is seen where times would say nothing.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::egress::Proxies;
use dingtalk_binding::settings::Settings;
use dingtalk_binding::signature;

const DOCUMENT: &str = include_str!("../../../docs/performance.md");

/// How far a count may be from the documented one, in hundredths: what another compiler makes of the same source.
const MARGIN: u64 = 3;

/// The least that a component's memory grows by.
const PAGE: usize = 64 << 10;

const NOW: u64 = 1_700_000_000_000;
const SECRET: &str = "SECbenchmark0123456789abcdef0123456789";
const USUAL: &str = r#"{"msgtype":"text","text":{"content":"The build is green again"}}"#;
const CALLBACK: &str = r#"{"conversationId":"cidSimulated+group/0=","atUsers":[{"dingtalkId":"$:LWCP_v1:$bot"}],"chatbotCorpId":"dingcorp","chatbotUserId":"$:LWCP_v1:$bot","msgId":"msgSimulated0/1==","senderNick":"Zhang San","isAdmin":true,"senderStaffId":"user123","sessionWebhookExpiredTime":1700005400000,"createAt":1699999999000,"senderCorpId":"dingcorp","conversationType":"2","senderId":"$:LWCP_v1:$sender","conversationTitle":"simulated group","isInAtList":true,"sessionWebhook":"https://oapi.dingtalk.com/robot/sendBySession?session=0123456789abcdef0123456789abcdef","text":{"content":" ping"},"robotCode":"dingrobot","msgtype":"text"}"#;

/// A robot that takes every message, for as long as the test runs.
async fn robot() -> String {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 27\r\n\r\n{\"errcode\":0,\"errmsg\":\"ok\"}";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/robot/send?access_token=benchmark-access-token", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"}}") {
                    if stream.read_buf(&mut request).await.unwrap() == 0 {
                        return;
                    }
                }
                stream.write_all(OK).await.unwrap();
            });
        }
    });
    url
}

/// Takes every message and answers none.
struct Silent;

impl Handler for Silent {
    fn handle(&self, _: Vec<u8>, _: Vec<(String, String)>) -> BoxFuture<'_, Result<Option<Vec<u8>>, HandlerError>> {
        Box::pin(async { Ok(None) })
    }
}

/// Instructions of `init`, and of a call in the instance that this made.
async fn counted<T>(
    sandbox: &Sandbox,
    tenant: &Tenant,
    reader: Option<Arc<dyn Handler>>,
    call: impl AsyncFnOnce(&mut Instance) -> T,
) -> [u64; 2] {
    let mut instance = sandbox.instantiate(tenant, tenant.egress.exit(Reach::Robot), reader).await.unwrap();
    let start = instance.store.get_fuel().unwrap();
    instance.init(tenant).await.unwrap().unwrap();
    let initialised = instance.store.get_fuel().unwrap();
    call(&mut instance).await;
    [start - initialised, initialised - instance.store.get_fuel().unwrap()]
}

/// Of a row's first column, the number in its second.
fn documented(row: &str) -> Option<u64> {
    let line = DOCUMENT.lines().find_map(|line| line.strip_prefix(&format!("| {row} | ")))?;
    line.split(' ').next()?.replace(',', "").parse().ok()
}

fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

/// A sandbox, and a tenant whose robot takes every message.
async fn prepared(limits: Limits) -> (Sandbox, Tenant) {
    let sandbox = Sandbox::new(dingtalk_component::COMPONENT, limits, Arc::new(|| NOW)).unwrap();
    let url = robot().await;
    let properties = [("id", "counted"), ("url", &url), ("secret", SECRET)];
    let egress = Egress::new("counted", &Settings::parse(properties).unwrap(), &Proxies::none()).unwrap();
    let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let tenant = sandbox.tenant(properties, egress, Duration::from_secs(30));
    (sandbox, tenant)
}

fn create(data: &str) -> wit::InvokeRequest {
    Request { operation: "create".into(), data: data.into(), metadata: Vec::new() }.into()
}

/// A message of 10 KB.
fn large() -> String {
    USUAL.replace("green", &"green ".repeat(10_000 / "green ".len()))
}

/// The component has one page of memory to begin with, and a host pays for each that it asks for.
#[tokio::test]
async fn a_message_of_10_kb_takes_no_more_than_the_initial_memory() {
    let (sandbox, tenant) = prepared(Limits { memory: PAGE, ..Limits::default() }).await;
    let request = create(&large());
    counted(&sandbox, &tenant, None, async |instance| instance.invoke(request.clone()).await.unwrap().unwrap()).await;
}

/// What one call has left behind does not add up.
#[tokio::test]
async fn an_instance_that_is_kept_takes_one_page_more() {
    // wasi:http keeps some handles until the instance ends.
    let limits = Limits { memory: 2 * PAGE, fuel: u64::MAX, handles: 100_000, ..Limits::default() };
    let (sandbox, tenant) = prepared(limits).await;
    let requests = [create(USUAL), create(&large()), create("The build is green again")];
    counted(&sandbox, &tenant, None, async |instance| {
        for request in requests.iter().cycle().take(300) {
            // A call has so many requests and no more.
            *instance.store.data_mut() = sandbox.state(&tenant, tenant.egress.exit(Reach::Robot), None);
            instance.invoke(request.clone()).await.unwrap().unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_call_costs_the_documented_instructions() {
    let (sandbox, tenant) = prepared(Limits::default()).await;
    let create = async |data: &str| {
        let request = create(data);
        counted(&sandbox, &tenant, None, async |instance| instance.invoke(request.clone()).await.unwrap().unwrap())
            .await
    };
    let headers = [
        ("host", "robot.example.com"),
        ("content-type", "application/json; charset=utf-8"),
        ("timestamp", &NOW.to_string()),
        ("sign", &signature::sign(SECRET, NOW)),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec();
    let callback = wit::Callback { headers, body: CALLBACK.into() };
    let received = async |instance: &mut Instance| {
        instance.read().await.unwrap().unwrap();
        instance.receive(&callback).await.unwrap().unwrap()
    };
    let [init, usual] = create(USUAL).await;
    let [_, large] = create(&large()).await;
    let [_, received] = counted(&sandbox, &tenant, Some(Arc::new(Silent)), received).await;

    let rows = [
        ("`init`", init),
        ("`create`: a usual message", usual),
        ("`create`: a message of 10 KB", large),
        ("`read`, `receive`: a callback", received),
    ];
    let is_near = |row: &str, count: u64| {
        documented(row)
            .is_some_and(|figure| figure.abs_diff(count).saturating_mul(100) <= figure.saturating_mul(MARGIN))
    };
    let table: Vec<String> = rows.iter().map(|(row, count)| format!("| {row} | {} |", with_commas(*count))).collect();
    let wrong: Vec<&str> = rows.iter().filter(|(row, count)| !is_near(row, *count)).map(|(row, _)| *row).collect();
    assert!(
        wrong.is_empty(),
        "{}: not what docs/performance.md says, by more than {MARGIN} in 100. If that is meant, put these rows there:\n{}",
        wrong.join(", "),
        table.join("\n")
    );
}
