//! What the next message of a tenant finds, and which instances are never used again.

use std::sync::LazyLock;

use dingtalk_binding::error::{HandlerError, InvokeCause, InvokeError};
use dingtalk_binding::settings::Settings;
use dingtalk_binding::signature;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::check::{Unfit, check};
use super::*;
use crate::clock::Arrival;
use crate::egress::{Egress, Proxies};
use crate::event::BoxFuture;
use crate::sandbox::{CallError, Callback, Request, Response};

mod fit;

const NOW: u64 = 1_700_000_000_000;
const SECRET: &str = "SECrewound0123456789";
const USUAL: &str = r#"{"msgtype":"text","text":{"content":"The build is green again"}}"#;
const CANARY: &str = "canary-5f1d0c9a";

/// What a robot does with a message: by what is in it.
async fn robot() -> String {
    robot_that_tells(Arc::new(Semaphore::new(0))).await
}

/// The same, which gives a permit for each message that it never answers.
async fn robot_that_tells(unanswered: Arc<Semaphore>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/robot/send?access_token=rewound", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let unanswered = Arc::clone(&unanswered);
            tokio::spawn(async move {
                loop {
                    let mut request = Vec::new();
                    while !request.ends_with(b"}}") {
                        if stream.read_buf(&mut request).await.unwrap_or_default() == 0 {
                            return;
                        }
                    }
                    let text = String::from_utf8_lossy(&request);
                    let (status, body) = match () {
                        () if text.contains("never") => {
                            unanswered.add_permits(1);
                            std::future::pending().await
                        }
                        () if text.contains("cut off") => return,
                        () if text.contains("rejected") => ("200 OK", r#"{"errcode":310000,"errmsg":"keywords"}"#),
                        () if text.contains("broken") => ("500 No", "<html>"),
                        () => ("200 OK", r#"{"errcode":0,"errmsg":"ok"}"#),
                    };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    url
}

fn sandbox(limits: Limits) -> Sandbox {
    let limits = Limits { lifetime: Instances::Rewound, ..limits };
    Sandbox::new(dingtalk_component::COMPONENT, limits, Arc::new(|| NOW)).unwrap()
}

fn tenant(sandbox: &Sandbox, id: &str, url: &str, timeout: Duration) -> Tenant {
    let properties = [("id", id), ("url", url), ("secret", SECRET)];
    let egress = Egress::new(id, &Settings::parse(properties).unwrap(), &Proxies::none()).unwrap();
    let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    sandbox.tenant(properties, egress, timeout)
}

const LONG: Duration = Duration::from_secs(60);

/// A sandbox, and a tenant of it.
async fn prepared(limits: Limits) -> (Sandbox, Tenant) {
    let sandbox = sandbox(limits);
    let tenant = tenant(&sandbox, "one", &robot().await, LONG);
    (sandbox, tenant)
}

fn text(content: &str) -> String {
    USUAL.replace("The build is green again", content)
}

type Invoked = Result<Response, CallError<InvokeError>>;

async fn create(sandbox: &Sandbox, tenant: &Tenant, data: &str) -> Invoked {
    let request = Request { operation: "create".into(), data: data.into(), metadata: Vec::new() };
    sandbox.invoke(tenant, request, None).await
}

async fn get(sandbox: &Sandbox, tenant: &Tenant, reader: Option<Arc<dyn Handler>>) -> Invoked {
    let request = Request { operation: "get".into(), data: "Hi".into(), metadata: Vec::new() };
    sandbox.invoke(tenant, request, reader).await
}

/// Instances that wait for a message of the tenant.
fn waiting(tenant: &Tenant) -> usize {
    tenant.shelf.as_ref().unwrap().waiting().instances.len()
}

/// Instances of all tenants that there are, in a call or not.
fn living(sandbox: &Sandbox) -> usize {
    sandbox.rewinder.as_ref().unwrap().places().own.values().sum()
}

/// Sends what makes one wait.
async fn warm(sandbox: &Sandbox, tenant: &Tenant) {
    for expected in [0, 1] {
        get(sandbox, tenant, None).await.unwrap_err();
        assert_eq!(waiting(tenant), expected);
    }
}

/// What each of those that wait has in memory.
fn memories(tenant: &Tenant) -> Vec<Box<[u8]>> {
    let mut waiting = tenant.shelf.as_ref().unwrap().waiting();
    waiting.instances.iter_mut().map(|(_, kept)| Box::from(&*kept.held.memory())).collect()
}

/// An instance of its own for the tenant, initialised.
async fn initialised(sandbox: &Sandbox, tenant: &Tenant) -> Held {
    let rewinder = sandbox.rewinder.as_ref().unwrap();
    let exit = tenant.egress.exit(Reach::Robot);
    let held = Held::make(sandbox.instantiate_of(&rewinder.binding, tenant, exit, None)).await.unwrap();
    let mut held = held.ok().unwrap();
    held.instance().init(tenant).await.unwrap().unwrap();
    held
}

fn finds(memory: &[u8], needle: &str) -> bool {
    memory.windows(needle.len()).any(|bytes| bytes == needle.as_bytes())
}

/// Answers with what it was given.
struct Echo;

impl Handler for Echo {
    fn handle(&self, data: Vec<u8>, _: Vec<(String, String)>) -> BoxFuture<'_, Result<Option<Vec<u8>>, HandlerError>> {
        Box::pin(async { Ok(Some(data)) })
    }
}

#[derive(Debug, Clone)]
enum Message {
    Create(String),
    Get(bool),
    Callback { is_genuine: bool, is_read: bool, body: String },
    Unknown,
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let words =
        prop_oneof!["\\PC{0,40}", Just("rejected".to_owned()), Just("broken".to_owned()), Just("cut off".to_owned())];
    let message = prop_oneof![
        4 => words.prop_map(|words| Message::Create(text(&words.replace(['"', '\\'], "")))),
        1 => "\\PC{0,200}".prop_map(Message::Create),
        1 => (1..200_usize).prop_map(|kilobytes| Message::Create(text(&"large ".repeat(kilobytes * 170)))),
        1 => any::<bool>().prop_map(Message::Get),
        2 => (any::<bool>(), any::<bool>(), "\\PC{0,40}").prop_map(|(is_genuine, is_read, words)| {
            let body = text(&words.replace(['"', '\\'], ""));
            Message::Callback { is_genuine, is_read, body }
        }),
        1 => Just(Message::Unknown),
    ];
    proptest::collection::vec(message, 1..12)
}

async fn send(sandbox: &Sandbox, tenant: &Tenant, message: Message) {
    let reader = |is_read: bool| is_read.then(|| Arc::new(Echo) as Arc<dyn Handler>);
    match message {
        Message::Create(data) => {
            let answer = create(sandbox, tenant, &data).await;
            assert!(!matches!(answer, Err(CallError::Stopped { .. })), "{answer:?}");
        }
        Message::Get(is_read) => assert_eq!(get(sandbox, tenant, reader(is_read)).await.is_ok(), is_read),
        Message::Callback { is_genuine, is_read, body } => {
            let sign = signature::sign(if is_genuine { SECRET } else { "another" }, NOW);
            let headers = [("content-type", "application/json"), ("timestamp", &NOW.to_string()), ("sign", &sign)];
            let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec();
            let arrived = Arrival { instant: std::time::Instant::now(), time: NOW };
            let callback = Callback { headers, body: body.into(), arrived };
            let answer = sandbox.receive(tenant, callback, reader(is_read), LONG).await;
            assert_eq!(answer.is_ok(), is_genuine && is_read, "{answer:?}");
        }
        Message::Unknown => {
            let request = Request { operation: "delete".into(), data: Vec::new(), metadata: Vec::new() };
            sandbox.invoke(tenant, request, None).await.unwrap_err();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn after_any_messages_memory_is_what_a_fresh_init_leaves(messages in messages()) {
        // Compiled once.
        static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| sandbox(Limits::default()));
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let (sandbox, tenant) = (SANDBOX.clone(), tenant(&SANDBOX, "one", &robot().await, LONG));
            let expected: Box<[u8]> = Box::from(&*initialised(&sandbox, &tenant).await.memory());
            warm(&sandbox, &tenant).await;
            for message in messages {
                send(&sandbox, &tenant, message).await;
                for memory in memories(&tenant) {
                    assert!(memory == expected);
                }
                // One that a large message has made larger is gone; the next one makes another.
                if waiting(&tenant) == 0 {
                    get(&sandbox, &tenant, None).await.unwrap_err();
                }
                assert_eq!((waiting(&tenant), living(&sandbox)), (1, 1));
            }
        });
    }
}

#[tokio::test]
async fn nothing_of_a_message_is_found_in_memory_by_the_next_one() {
    let (sandbox, tenant) = prepared(Limits::default()).await;
    warm(&sandbox, &tenant).await;
    create(&sandbox, &tenant, &text(CANARY)).await.unwrap();
    let memory = memories(&tenant).remove(0);
    assert!(!finds(&memory, CANARY));
    // Where it would be found, if it were not put back.
    let mut held = initialised(&sandbox, &tenant).await;
    let request = Request { operation: "create".into(), data: text(CANARY).into(), metadata: Vec::new() };
    held.instance().invoke(request.into()).await.unwrap().unwrap();
    assert!(finds(held.memory(), CANARY));
    // What `init` left is there, in both.
    assert!(finds(&memory, SECRET) && finds(held.memory(), SECRET));
}

#[tokio::test]
async fn a_message_has_the_instance_of_the_last_one_and_limits_of_its_own() {
    // Not enough for two messages together, nor the handles of two.
    let (sandbox, tenant) = prepared(Limits { fuel: 200_000, handles: 16, ..Limits::default() }).await;
    warm(&sandbox, &tenant).await;
    let addresses = || {
        let waiting = tenant.shelf.as_ref().unwrap().waiting();
        waiting.instances.iter().map(|(_, kept)| kept.held.address()).collect::<Vec<_>>()
    };
    let first = addresses();
    for _ in 0..20 {
        create(&sandbox, &tenant, USUAL).await.unwrap();
        assert_eq!(addresses(), first);
    }
}

#[tokio::test]
async fn nothing_of_a_call_stays_in_the_host_for_its_instance() {
    let (sandbox, tenant) = prepared(Limits::default()).await;
    warm(&sandbox, &tenant).await;
    let reader: Arc<dyn Handler> = Arc::new(Echo);
    get(&sandbox, &tenant, Some(Arc::clone(&reader))).await.unwrap();
    assert_eq!((waiting(&tenant), Arc::strong_count(&reader)), (1, 1));
    // And the next call is not reading because this one was.
    let refused = get(&sandbox, &tenant, None).await.unwrap_err();
    assert!(
        matches!(refused, CallError::Binding(InvokeError { cause: InvokeCause::NotReading(_), .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_call_that_leaves_a_handle_leaves_no_instance() {
    let (sandbox, tenant) = prepared(Limits::default()).await;
    for (handles, expected) in [(0, 1), (1, 0)] {
        warm(&sandbox, &tenant).await;
        let mut lease = sandbox.lease(&tenant, tenant.egress.exit(Reach::Robot), None).await.unwrap();
        (0..handles).for_each(|_| lease.instance().store.data_mut().own_http().hold_one());
        lease.end(&sandbox, &tenant);
        assert_eq!((waiting(&tenant), living(&sandbox)), (expected, expected));
        tenant.shelf.as_ref().unwrap().waiting().instances.clear();
        tenant.shelf.as_ref().unwrap().waiting().last_call = None;
    }
}

#[tokio::test]
async fn an_instance_whose_init_did_something_else_than_the_first_is_not_kept() {
    let (sandbox, tenant) = prepared(Limits::default()).await;
    warm(&sandbox, &tenant).await;
    let mut other = memories(&tenant).remove(0);
    other[0] ^= 1;
    let base = sandbox.rewinder.as_ref().unwrap().base.get().unwrap();
    let other = Arc::new(Image::of(&other, base).unwrap());
    {
        let mut waiting = tenant.shelf.as_ref().unwrap().waiting();
        waiting.instances.clear();
        waiting.image = Some(Arc::downgrade(&other));
    }
    for _ in 0..3 {
        create(&sandbox, &tenant, USUAL).await.unwrap();
        assert_eq!((waiting(&tenant), living(&sandbox)), (0, 0));
    }
}

#[tokio::test]
async fn a_call_that_is_stopped_leaves_no_instance() {
    let large = text(&"large ".repeat(20_000));
    let memory = Limits { memory: 128 << 10, ..Limits::default() };
    let fuel = Limits { fuel: 1_000_000, ..Limits::default() };
    let bytes = Limits { hostcall_bytes: 100_000, ..Limits::default() };
    for limits in [memory, fuel, bytes] {
        let (sandbox, tenant) = prepared(limits).await;
        warm(&sandbox, &tenant).await;
        let stopped = create(&sandbox, &tenant, &large).await;
        assert!(matches!(stopped, Err(CallError::Stopped { .. })), "{stopped:?}");
        assert_eq!((waiting(&tenant), living(&sandbox)), (0, 0));
        // The tenant goes on.
        create(&sandbox, &tenant, USUAL).await.unwrap();
        assert_eq!((waiting(&tenant), living(&sandbox)), (1, 1));
    }
}

#[tokio::test]
async fn a_call_that_takes_too_long_leaves_no_instance() {
    let sandbox = sandbox(Limits { grace: Duration::ZERO, ..Limits::default() });
    let tenant = tenant(&sandbox, "one", &robot().await, Duration::from_millis(500));
    warm(&sandbox, &tenant).await;
    let stopped = create(&sandbox, &tenant, &text("never")).await;
    assert!(matches!(stopped, Err(CallError::Stopped { .. })), "{stopped:?}");
    assert_eq!((waiting(&tenant), living(&sandbox)), (0, 0));
}

/// Says when it is called, and does not answer before it may.
struct Holding {
    called: Semaphore,
    may_answer: Semaphore,
}

impl Holding {
    fn new() -> Arc<Self> {
        Arc::new(Self { called: Semaphore::new(0), may_answer: Semaphore::new(0) })
    }
}

impl Handler for Holding {
    fn handle(&self, _: Vec<u8>, _: Vec<(String, String)>) -> BoxFuture<'_, Result<Option<Vec<u8>>, HandlerError>> {
        Box::pin(async {
            self.called.add_permits(1);
            self.may_answer.acquire().await.unwrap().forget();
            Ok(None)
        })
    }
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_no_instance() {
    let (sandbox, tenant) = prepared(Limits::default()).await;
    warm(&sandbox, &tenant).await;
    let holding = Holding::new();
    tokio::select! {
        answer = get(&sandbox, &tenant, Some(Arc::clone(&holding) as Arc<dyn Handler>)) => panic!("{answer:?}"),
        called = holding.called.acquire() => called.unwrap().forget(),
    }
    assert_eq!((waiting(&tenant), living(&sandbox)), (0, 0));
}

#[tokio::test]
async fn one_that_hangs_up_while_its_message_is_under_way_leaves_none_either() {
    let unanswered = Arc::new(Semaphore::new(0));
    let sandbox = sandbox(Limits::default());
    let tenant = tenant(&sandbox, "one", &robot_that_tells(Arc::clone(&unanswered)).await, LONG);
    warm(&sandbox, &tenant).await;
    let message = text("never");
    tokio::select! {
        answer = create(&sandbox, &tenant, &message) => panic!("{answer:?}"),
        unanswered = unanswered.acquire() => unanswered.unwrap().forget(),
    }
    assert_eq!((waiting(&tenant), living(&sandbox)), (0, 0));
}

#[tokio::test]
async fn tenants_do_not_share_instances_which_go_with_their_tenant() {
    let sandbox = sandbox(Limits::default());
    let tenants = ["number-one", "number-two"].map(|id| tenant(&sandbox, id, "http://127.0.0.1:1/", LONG));
    for tenant in &tenants {
        warm(&sandbox, tenant).await;
    }
    assert_eq!(living(&sandbox), 2);
    for _ in 0..3 {
        for (tenant, expected) in tenants.iter().zip(["number-one", "number-two"]) {
            match get(&sandbox, tenant, None).await {
                Err(CallError::Binding(InvokeError { cause: InvokeCause::NotReading(id), .. })) => {
                    assert_eq!(id, expected);
                }
                answer => panic!("{answer:?}"),
            }
        }
    }
    let [one, two] = tenants;
    assert_eq!((waiting(&one), waiting(&two), living(&sandbox)), (1, 1, 2));
    for (tenant, (own, other)) in [(&one, ("number-one", "number-two")), (&two, ("number-two", "number-one"))] {
        let memory = memories(tenant).remove(0);
        assert!(finds(&memory, own) && !finds(&memory, other));
    }
    drop(one);
    assert_eq!(living(&sandbox), 1);
    drop(two);
    assert_eq!(living(&sandbox), 0);
}

/// Another sandbox may be of another component, or have other limits.
#[tokio::test]
async fn an_instance_is_used_by_the_sandbox_that_made_it_alone() {
    let (first, tenant) = prepared(Limits::default()).await;
    warm(&first, &tenant).await;
    let other = sandbox(Limits { fuel: 1_000, ..Limits::default() });
    let stopped = get(&other, &tenant, None).await;
    assert!(matches!(stopped, Err(CallError::Stopped { .. })), "{stopped:?}");
    assert_eq!((waiting(&tenant), living(&other)), (1, 0));
}

#[tokio::test]
async fn there_are_so_many_at_once_and_no_more() {
    let (sandbox, tenant) =
        prepared(Limits { instances: 512, instances_per_binding: PLACES.each + 8, ..Limits::default() }).await;
    warm(&sandbox, &tenant).await;
    let (sandbox, tenant, holding) = (Arc::new(sandbox), Arc::new(tenant), Holding::new());
    let at_once = PLACES.each + 8;
    let calls = (0..at_once).map(|_| {
        let (sandbox, tenant, holding) = (Arc::clone(&sandbox), Arc::clone(&tenant), Arc::clone(&holding));
        tokio::spawn(async move { get(&sandbox, &tenant, Some(holding as Arc<dyn Handler>)).await.map(drop) })
    });
    let calls: Vec<_> = calls.collect();
    holding.called.acquire_many(u32::try_from(at_once).unwrap()).await.unwrap().forget();
    assert_eq!((waiting(&tenant), living(&sandbox)), (0, PLACES.each));
    holding.may_answer.add_permits(at_once);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!((waiting(&tenant), living(&sandbox)), (PLACES.each, PLACES.each));
}

#[tokio::test(start_paused = true)]
async fn who_sends_nothing_for_a_while_has_none() {
    let sandbox = sandbox(Limits::default());
    let tenant = tenant(&sandbox, "one", "http://127.0.0.1:1/", LONG);
    warm(&sandbox, &tenant).await;
    let nearly = IDLE - Duration::from_millis(100);
    tokio::time::sleep(nearly).await;
    get(&sandbox, &tenant, None).await.unwrap_err();
    tokio::time::sleep(nearly).await;
    assert_eq!((waiting(&tenant), living(&sandbox)), (1, 1));
    tokio::time::sleep(IDLE - nearly + Duration::from_millis(10)).await;
    assert_eq!((waiting(&tenant), living(&sandbox)), (0, 0));
    assert!(tenant.shelf.as_ref().unwrap().waiting().image.as_ref().unwrap().upgrade().is_none());
    // Then it is as at the beginning.
    warm(&sandbox, &tenant).await;
}

#[tokio::test]
async fn what_cannot_be_rewound_is_said_once_and_served_afresh() {
    let (log, _guard) = crate::quiet::log();
    let limits = Limits { lifetime: Instances::Rewound, ..Limits::default() };
    let component = fit::with_another_global();
    assert!(matches!(check(&component), Err(Unfit::Global)));
    let sandbox = Sandbox::new(&component, limits, Arc::new(|| NOW)).unwrap();
    let tenant = tenant(&sandbox, "one", "http://127.0.0.1:1/", LONG);
    for _ in 0..3 {
        let refused = get(&sandbox, &tenant, None).await.unwrap_err();
        assert!(matches!(refused, CallError::Binding(_)), "{refused:?}");
    }
    assert!(tenant.shelf.is_none());
    assert_eq!(log.count("every call gets a fresh instance"), 1);
}

/// It is made, and found out then: the memory of a module is there as often as the module.
#[tokio::test]
async fn an_instance_with_more_than_one_memory_serves_its_call_and_is_not_kept() {
    let component = fit::with_its_module_twice();
    check(&component).unwrap();
    let (sandbox, _) = prepared(Limits::default()).await;
    let sandbox = Sandbox { rewinder: Rewinder::new(&component, &Limits::default()).unwrap(), ..sandbox };
    let tenant = tenant(&sandbox, "one", &robot().await, LONG);
    for _ in 0..3 {
        create(&sandbox, &tenant, USUAL).await.unwrap();
    }
    assert_eq!((waiting(&tenant), living(&sandbox)), (0, 0));
}
