//! An instance that is kept, and the slots and turns of calls.

use super::*;
use crate::clock;
use crate::egress::Proxies;
use dingtalk_binding::error::{InvokeCause, Refusal};
use dingtalk_binding::settings::Settings;

/// A tenant whose robot refuses connections.
fn tenant(sandbox: &Sandbox, properties: &[(&str, &str)]) -> Tenant {
    let settings = Settings::parse([("id", "x"), ("url", "http://127.0.0.1:1")]).unwrap();
    let egress = Egress::new("x", &settings, &Proxies::none()).unwrap();
    let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    sandbox.tenant(properties, egress, settings.timeout)
}

fn request(data: &str) -> wit::InvokeRequest {
    Request { operation: "create".into(), data: data.into(), metadata: Vec::new() }.into()
}

/// What other hosts may do, and this one does not: keep an instance.
#[tokio::test]
async fn an_instance_serves_call_after_call_and_init_after_init() {
    let limits = Limits { fuel: u64::MAX, ..Limits::default() };
    let sandbox = Sandbox::new(dingtalk_component::COMPONENT, limits, clock::system()).unwrap();
    let good = tenant(&sandbox, &[("id", "one"), ("url", "http://127.0.0.1:1"), ("secret", "SEC")]);
    let bad = tenant(&sandbox, &[("id", "two")]);
    let mut instance = sandbox.instantiate(&good, good.egress.exit(Reach::Robot), None).await.unwrap();
    let get: wit::InvokeRequest = Request { operation: "get".into(), data: Vec::new(), metadata: Vec::new() }.into();

    let before = instance.invoke(request("Hi")).await.unwrap();
    assert!(matches!(before, Err(InvokeError { cause: InvokeCause::NotInitialized, .. })), "{before:?}");
    instance.init(&good).await.unwrap().unwrap();
    let sent = instance.invoke(request("Hi")).await.unwrap();
    assert!(matches!(sent, Err(InvokeError { cause: InvokeCause::Unreachable(_), .. })), "{sent:?}");

    // An instance whose second configuration fails must not send to the robot of the first.
    let failed = instance.init(&bad).await.unwrap();
    assert!(matches!(failed, Err(PropertyError { .. })), "{failed:?}");
    let after = instance.invoke(request("Hi")).await.unwrap();
    assert!(matches!(after, Err(InvokeError { cause: InvokeCause::NotInitialized, .. })), "{after:?}");

    let other = tenant(&sandbox, &[("id", "three"), ("url", "http://127.0.0.1:1")]);
    instance.init(&other).await.unwrap().unwrap();
    match instance.invoke(get.clone()).await.unwrap() {
        Err(InvokeError { cause: InvokeCause::NotReading(id), .. }) => assert_eq!(id, "three"),
        answer => panic!("{answer:?}"),
    }

    // 2,000 messages of 64 KiB are four times the memory that an instance may have: what a call takes, it
    // gives back.
    let large = request(&format!("[1, \"{}\"]", "x".repeat(64 << 10)));
    for _ in 0..2_000 {
        let refused = instance.invoke(large.clone()).await.unwrap();
        assert!(matches!(refused, Err(InvokeError { cause: InvokeCause::InvalidMessage(_), .. })), "{refused:?}");
    }
}

/// Answers every message with what it says, as if it had been asked to repeat it.
struct Echo;

impl Handler for Echo {
    fn handle(&self, data: Vec<u8>, _: Vec<(String, String)>) -> BoxFuture<'_, Result<Option<Vec<u8>>, HandlerError>> {
        Box::pin(async { Ok(Some(data)) })
    }
}

#[tokio::test]
async fn a_callback_is_as_old_as_it_was_when_it_arrived() {
    for lifetime in Instances::ALL {
        let now = 1_700_000_000_000;
        // Five seconds pass between the arrival and the verification.
        let sandbox = Sandbox::new(
            dingtalk_component::COMPONENT,
            Limits { lifetime, ..Limits::default() },
            Arc::new(move || now + 5_000),
        );
        let sandbox = sandbox.unwrap();
        let properties = [("id", "x"), ("url", "http://127.0.0.1:1"), ("secret", "SEC"), ("callbackMaxSkew", "1s")];
        let tenant = tenant(&sandbox, &properties);
        let sign = dingtalk_binding::signature::sign("SEC", now);
        let headers = [("Content-Type", "application/json"), ("timestamp", &now.to_string()), ("sign", &sign)];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec();
        let received = async |arrived| {
            let arrived = Arrival { instant: Instant::now(), time: arrived };
            let callback = Callback { headers: headers.clone(), body: b"{}".to_vec(), arrived };
            sandbox.receive(&tenant, callback, Some(Arc::new(Echo)), Duration::from_secs(60)).await
        };
        for arrived in [now, now + 1_000, now - 1_000] {
            assert_eq!(received(arrived).await.unwrap().status, 200, "{arrived}");
        }
        for arrived in [now + 1_001, now - 1_001, sandbox.arrival().time] {
            let refused = received(arrived).await.unwrap_err();
            assert!(matches!(refused, CallError::Binding(ReceiveError::Refused(Refusal::Expired))), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn an_instance_hands_on_from_read_to_close() {
    const REPLY: &str = r#"{"msgtype":"text","text":{"content":"x"}}"#;
    let now = 1_700_000_000_000;
    let sandbox = Sandbox::new(dingtalk_component::COMPONENT, Limits::default(), Arc::new(move || now)).unwrap();
    let tenant = tenant(&sandbox, &[("id", "one"), ("url", "http://127.0.0.1:1"), ("secret", "SEC")]);
    let get: wit::InvokeRequest = Request { operation: "get".into(), data: REPLY.into(), metadata: Vec::new() }.into();
    let sign = dingtalk_binding::signature::sign("SEC", now);
    let headers = [("Content-Type", "application/json"), ("timestamp", &now.to_string()), ("sign", &sign)];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec();
    let genuine = wit::Callback { headers, body: REPLY.into() };
    let forged = wit::Callback { headers: genuine.headers[..1].to_vec(), body: REPLY.into() };
    let mut instance =
        sandbox.instantiate(&tenant, tenant.egress.exit(Reach::Nowhere), Some(Arc::new(Echo))).await.unwrap();

    assert!(matches!(instance.read().await.unwrap(), Err(wit::ReadError::NotInitialized)));
    assert!(matches!(instance.receive(&genuine).await.unwrap(), Err(ReceiveError::NotInitialized)));
    for _ in 0..2 {
        instance.init(&tenant).await.unwrap().unwrap();
        for reading in [false, true, false] {
            if reading {
                instance.read().await.unwrap().unwrap();
            } else {
                instance.binding.close(&mut instance.store).await.unwrap();
            }
            let (got, received) =
                (instance.invoke(get.clone()).await.unwrap(), instance.receive(&genuine).await.unwrap());
            if reading {
                assert_eq!(got.unwrap().data.as_deref(), Some(REPLY.as_bytes()));
                assert_eq!((received.as_ref().unwrap().status, &*received.unwrap().body), (200, REPLY.as_bytes()));
            } else {
                assert!(matches!(got, Err(InvokeError { cause: InvokeCause::NotReading(id), .. }) if id == "one"));
                assert!(matches!(received, Err(ReceiveError::NotReading(_))));
            }
            // Whether anything reads is nothing that a forger learns.
            let refused = instance.receive(&forged).await.unwrap();
            assert!(matches!(refused, Err(ReceiveError::Refused(Refusal::Unsigned))), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_call_that_waits_for_a_slot_has_no_copy_of_its_message() {
    for lifetime in Instances::ALL {
        let limits = Limits { instances: 1, lifetime, queue: Duration::from_millis(20), ..Limits::default() };
        let sandbox = Sandbox::new(dingtalk_component::COMPONENT, limits, clock::system()).unwrap();
        let tenant = tenant(&sandbox, &[("id", "one"), ("url", "http://127.0.0.1:1")]);
        let copies = std::cell::Cell::new(0);
        let message = || {
            copies.set(copies.get() + 1);
            Request { operation: "create".into(), data: b"Hi".to_vec(), metadata: Vec::new() }
        };
        let taken = sandbox.operations.try_take(tenant.id()).unwrap();
        let refused = sandbox.invoke_with(&tenant, "create", message, None, None).await.unwrap_err();
        assert!(matches!(refused, CallError::Overloaded(Overload::Host { running: 1, waiting: None })), "{refused:?}");
        assert_eq!(copies.get(), 0);
        drop(taken);
        let sent = sandbox.invoke_with(&tenant, "create", message, None, None).await.unwrap_err();
        assert!(matches!(sent, CallError::Binding(InvokeError { cause: InvokeCause::Unreachable(_), .. })), "{sent:?}");
        assert_eq!(copies.get(), 1);
    }
}

#[tokio::test]
async fn calls_that_are_stopped_are_one_line_in_the_log() {
    for lifetime in Instances::ALL {
        let limits = Limits { fuel: 1_000, lifetime, ..Limits::default() };
        let sandbox = Sandbox::new(dingtalk_component::COMPONENT, limits, clock::system()).unwrap();
        let tenant = tenant(&sandbox, &[("id", "one"), ("url", "http://127.0.0.1:1")]);
        let (log, _guard) = crate::quiet::log();
        for _ in 0..20 {
            let request = Request { operation: "create".into(), data: "Hi".into(), metadata: Vec::new() };
            let stopped = sandbox.invoke(&tenant, request, None).await;
            assert!(matches!(stopped, Err(CallError::Stopped { .. })), "{stopped:?}");
        }
        assert_eq!(log.count("the component was stopped"), 1);
    }
}

/// Says whether it runs in another task than this one.
struct Apart(Option<tokio::task::Id>);

impl Handler for Apart {
    fn handle(&self, _: Vec<u8>, _: Vec<(String, String)>) -> BoxFuture<'_, Result<Option<Vec<u8>>, HandlerError>> {
        Box::pin(async { Ok(Some(vec![u8::from(tokio::task::try_id() != self.0)])) })
    }
}

/// How deep an application's client goes is not known, and the stack of a call is small.
#[tokio::test]
async fn a_delivery_does_not_run_on_the_stack_of_a_call() {
    for lifetime in Instances::ALL {
        let sandbox =
            Sandbox::new(dingtalk_component::COMPONENT, Limits { lifetime, ..Limits::default() }, clock::system())
                .unwrap();
        let tenant = tenant(&sandbox, &[("id", "one"), ("url", "http://127.0.0.1:1")]);
        // The third has an instance that is used again.
        for _ in 0..3 {
            let get = Request { operation: "get".into(), data: b"Hi".to_vec(), metadata: Vec::new() };
            let reader = Arc::new(Apart(tokio::task::try_id()));
            let answer = sandbox.invoke(&tenant, get, Some(reader)).await.unwrap();
            assert_eq!(answer.data, Some(vec![1]));
        }
    }
}

/// A resolver that says whether it runs in another task than the test.
struct ApartLookup {
    test: Option<tokio::task::Id>,
    was_apart: Arc<std::sync::OnceLock<bool>>,
}

impl crate::egress::Lookup for ApartLookup {
    fn lookup(&self, _: String) -> BoxFuture<'static, std::io::Result<Vec<std::net::IpAddr>>> {
        let _ = self.was_apart.set(tokio::task::try_id() != self.test);
        Box::pin(async { Ok(vec![std::net::Ipv4Addr::LOCALHOST.into()]) })
    }
}

/// Nor are names, proxies and TLS, which a call needs for its first request.
#[tokio::test]
async fn a_connection_is_not_made_on_the_stack_of_a_call() {
    let limits = Limits::default();
    let over = |http| Sandbox::over(http, dingtalk_component::COMPONENT, limits.clone(), clock::system()).unwrap();
    let rewound = Limits { lifetime: Instances::Rewound, ..Limits::default() };
    let rewound = Sandbox::new(dingtalk_component::COMPONENT, rewound, clock::system()).unwrap();
    for (sandbox, first_calls) in [(over(WasiHttp::Own), 0), (over(WasiHttp::Wasmtime), 0), (rewound, 2)] {
        let properties = [("id", "one"), ("url", "http://robot.internal:1")];
        let was_apart = Arc::default();
        let lookup = ApartLookup { test: tokio::task::try_id(), was_apart: Arc::clone(&was_apart) };
        let policy = crate::egress::Policy::allowing(&["127.0.0.1".parse().unwrap()]).resolved_by(Arc::new(lookup));
        let settings = Settings::parse(properties).unwrap();
        let egress = Egress::within("x", &settings, &Proxies::none(), &policy).unwrap();
        let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let tenant = sandbox.tenant(properties, egress, settings.timeout);
        for _ in 0..first_calls {
            let get = Request { operation: "get".into(), data: b"Hi".to_vec(), metadata: Vec::new() };
            sandbox.invoke(&tenant, get, None).await.unwrap_err();
        }
        let request = Request { operation: "create".into(), data: b"Hi".to_vec(), metadata: Vec::new() };
        let sent = sandbox.invoke(&tenant, request, None).await.unwrap_err();
        assert!(matches!(sent, CallError::Binding(InvokeError { cause: InvokeCause::Unreachable(_), .. })), "{sent:?}");
        assert_eq!(was_apart.get(), Some(&true));
    }
}

/// Whoever wants to use an instance for another call must know that nothing of this one is left.
#[tokio::test]
async fn our_component_gives_back_every_handle_that_it_was_given() {
    let limits = Limits { fuel: u64::MAX, ..Limits::default() };
    let sandbox = Sandbox::new(dingtalk_component::COMPONENT, limits, clock::system()).unwrap();
    let (server, answers) = (
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        [
            "HTTP/1.1 200 OK\r\nContent-Length: 27\r\nConnection: close\r\n\r\n{\"errcode\":0,\"errmsg\":\"ok\"}",
            "HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 27\r\nConnection: close\r\n\r\n{\"errc",
            "no HTTP",
        ],
    );
    let url = format!("http://{}/robot/send?access_token=x", server.local_addr().unwrap());
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        for answer in answers {
            let (mut connection, _) = server.accept().await.unwrap();
            let mut message = Vec::new();
            while !message.ends_with(b"}}") {
                connection.read_buf(&mut message).await.unwrap();
            }
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
        // Then nobody listens.
    });
    let settings = Settings::parse([("id", "x"), ("url", url.as_str())]).unwrap();
    let egress = Egress::new("x", &settings, &Proxies::none()).unwrap();
    let properties = [("id".to_owned(), "x".to_owned()), ("url".to_owned(), url)].to_vec();
    let tenant = sandbox.tenant(properties, egress, settings.timeout);
    let mut instance = sandbox.instantiate(&tenant, tenant.egress.exit(Reach::Robot), None).await.unwrap();
    instance.init(&tenant).await.unwrap().unwrap();
    let text = r#"{"msgtype":"text","text":{"content":"Hi"}}"#;
    let mut succeeded = 0;
    for data in [text, text, text, text, text, "null"] {
        succeeded += usize::from(instance.invoke(request(data)).await.unwrap().is_ok());
        assert_eq!(instance.store.data_mut().own_http().live_handles(), 0, "{data}");
    }
    assert_eq!(succeeded, 1);
}
