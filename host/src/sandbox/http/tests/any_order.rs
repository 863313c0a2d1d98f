//! Any functions in any order: whatever a component does, both implementations answer the same, and neither holds more
//! than it may.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// What a hostile component may do next; the numbers choose among what it holds.
#[derive(Debug, Clone)]
enum Step {
    Call(&'static str, Index, Index),
    Drop(&'static str, Index),
}

const KINDS: [&str; 11] = [
    "fields",
    "outgoing-request",
    "outgoing-body",
    "output-stream",
    "request-options",
    "future-incoming-response",
    "pollable",
    "incoming-response",
    "incoming-body",
    "input-stream",
    "error",
];

/// A function, what it takes, whether each for good, and what it makes.
type Known = (&'static str, &'static [(&'static str, bool)], &'static str);

const FUNCTIONS: [Known; 20] = [
    ("fields-from-list", &[], "fields"),
    ("outgoing-request-new", &[("fields", true)], "outgoing-request"),
    ("outgoing-request-body", &[("outgoing-request", false)], "outgoing-body"),
    ("outgoing-request-set-method", &[("outgoing-request", false)], ""),
    ("outgoing-request-set-scheme", &[("outgoing-request", false)], ""),
    ("outgoing-request-set-authority", &[("outgoing-request", false)], ""),
    ("outgoing-request-set-path-with-query", &[("outgoing-request", false)], ""),
    ("outgoing-body-write", &[("outgoing-body", false)], "output-stream"),
    ("outgoing-body-finish", &[("outgoing-body", true)], ""),
    ("output-stream-check-write", &[("output-stream", false)], ""),
    ("output-stream-write", &[("output-stream", false)], "error"),
    ("output-stream-subscribe", &[("output-stream", false)], "pollable"),
    ("request-options-new", &[], "request-options"),
    ("handle", &[("outgoing-request", true), ("request-options", true)], "future-incoming-response"),
    ("future-incoming-response-subscribe", &[("future-incoming-response", false)], "pollable"),
    ("future-incoming-response-get", &[("future-incoming-response", false)], "incoming-response"),
    ("incoming-response-status", &[("incoming-response", false)], ""),
    ("incoming-response-consume", &[("incoming-response", false)], "incoming-body"),
    ("incoming-body-stream", &[("incoming-body", false)], "input-stream"),
    ("input-stream-blocking-read", &[("input-stream", false)], "error"),
];

fn step() -> impl Strategy<Value = Step> {
    let call = (0..FUNCTIONS.len(), any::<Index>(), any::<Index>());
    prop_oneof![
        8 => call.prop_map(|(function, which, how)| Step::Call(FUNCTIONS[function].0, which, how)),
        1 => Just(()).prop_flat_map(|()| (any::<Index>(), any::<Index>())).prop_map(|(which, how)| Step::Call("exchange", which, how)),
        1 => (0..KINDS.len(), any::<Index>()).prop_map(|(kind, which)| Step::Drop(KINDS[kind], which)),
    ]
}

/// What is given to a function beside handles.
fn parameter(function: &str, robot: &str, how: &Index) -> Option<Val> {
    let one_of = |values: &[Val]| Some(how.get(values).clone());
    match function {
        "fields-from-list" => one_of(&[
            entries(&[]),
            entries(&[("content-length", "2")]),
            entries(&[("host", "x")]),
            entries(&[("x y", "")]),
        ]),
        "outgoing-request-set-method" => one_of(&[case("post", None), case("other", Some(text("NO WAY")))]),
        "outgoing-request-set-scheme" => one_of(&[
            some(case("HTTP", None)),
            some(case("HTTP", None)),
            none(),
            some(case("other", Some(text("ftp")))),
        ]),
        "outgoing-request-set-authority" => {
            one_of(&[some(text(robot)), some(text(robot)), some(text("127.0.0.1:1")), none(), some(text("a b"))])
        }
        "outgoing-request-set-path-with-query" => one_of(&[some(text("/x")), none(), some(text("x"))]),
        "outgoing-body-finish" => Some(none()),
        "output-stream-write" => one_of(&[bytes(b"H"), bytes(b"Hi"), bytes(b"Hi!"), bytes(b"")]),
        "input-stream-blocking-read" => one_of(&[Val::U64(0), Val::U64(1), Val::U64(u64::MAX)]),
        _ => None,
    }
}

/// What a component holds, by kind.
#[derive(Default)]
struct Held(BTreeMap<&'static str, Vec<ResourceAny>>);

impl Held {
    fn take(&mut self, kind: &str, which: &Index, for_good: bool) -> Option<ResourceAny> {
        let held = self.0.get_mut(kind).filter(|held| !held.is_empty())?;
        let index = which.index(held.len());
        Some(if for_good { held.remove(index) } else { held[index] })
    }

    fn put(&mut self, kind: &str, handle: ResourceAny) {
        let kind = KINDS.iter().find(|known| **known == kind).unwrap();
        self.0.entry(kind).or_default().push(handle);
    }

    fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

/// What each step is answered, up to the end of the call.
async fn play(http: WasiHttp, robot: &Robot, steps: &[Step]) -> Vec<String> {
    let mut driver = Driver::new(http, &egress(&robot.url())).await;
    let (mut held, mut answers) = (Held::default(), Vec::new());
    for step in steps {
        match step {
            Step::Drop(kind, which) => {
                let Some(handle) = held.take(kind, which, true) else { continue };
                if driver.drop(handle).await.is_err() {
                    answers.push(format!("drop {kind}: trap"));
                    return answers;
                }
            }
            Step::Call("exchange", which, _) => {
                // Begun with what is held, so that answers come about more often than by chance.
                let Some(request) = held.take("outgoing-request", which, true) else { continue };
                let authority = [Val::Resource(request), some(text(robot.authority()))];
                driver.ask("outgoing-request-set-authority", &authority).await;
                let answer = driver.call("handle", &[Val::Resource(request), none()]).await.unwrap();
                answers.push(format!("handle: {}", said(&answer)));
                let Some(future) = thing(&answer) else { continue };
                let pollable = driver.make("future-incoming-response-subscribe", &[Val::Resource(future)]).await;
                // Without an end where its body is not finished.
                let block = [Val::Resource(pollable)];
                let waiting = Box::pin(driver.ask("pollable-block", &block));
                let limit = Duration::from_millis(200);
                match tokio::time::timeout(limit, waiting).await {
                    Ok(waited) => answers.push(format!("block: {waited}")),
                    Err(_) => {
                        answers.push("block: no end".into());
                        return answers;
                    }
                }
                driver.drop(pollable).await.unwrap();
                held.put("future-incoming-response", future);
            }
            Step::Call(name, which, how) => {
                let Some((name, takes, makes)) = FUNCTIONS.iter().find(|(known, ..)| known == name) else { continue };
                let mut parameters = Vec::new();
                let mut is_complete = true;
                for (kind, for_good) in *takes {
                    let handle = held.take(kind, which, *for_good).map(Val::Resource);
                    match (*kind, handle) {
                        ("request-options", handle) => parameters.push(Val::Option(handle.map(Box::new))),
                        (_, Some(handle)) => parameters.push(handle),
                        (_, None) => {
                            is_complete = false;
                            break;
                        }
                    }
                }
                if !is_complete {
                    continue;
                }
                parameters.extend(parameter(name, robot.authority(), how));
                let Ok(answer) = driver.call(name, &parameters).await else {
                    answers.push(format!("{name}: trap"));
                    return answers;
                };
                answers.push(format!("{name}: {}", said(&answer)));
                if let Some(handle) = thing(&answer) {
                    held.put(makes, handle);
                }
            }
        }
        if http == WasiHttp::Own {
            assert_eq!(driver.live_handles(), held.count());
        }
    }
    answers
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn both_answer_the_same_whatever_a_component_does(steps in proptest::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let [ours, wasmtimes] = runtime.block_on(async {
            let robot = Robot::answering(&[OK]).await;
            [play(WasiHttp::Own, &robot, &steps).await, play(WasiHttp::Wasmtime, &robot, &steps).await]
        });
        prop_assert_eq!(ours, wasmtimes);
    }
}
