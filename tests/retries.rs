//! A message that its robot does not take is tried again within its call, where that posts nothing twice, and never for long.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use dingtalk_host::simulator::fault::{Fault, Times};

use crate::egress::{Secured, secured};
use crate::metrics::{get, value};
use crate::support::receiving::until;
use crate::support::witness::{Answer, OK, Received, Witness};
use crate::support::{Host, PATIENCE, Reply, Resources, Robot, SECRET, command, component, finish, send, stderr};

const CREATE: &str = r#"{"operation":"create","data":{"message":"Hi"}}"#;
const WITH_UUID: &str = r#"{"operation":"create","data":{"message":"Hi"},"metadata":{"msgUuid":"u1"}}"#;
const AGAIN: &str = "tried again";

fn busy() -> Fault {
    Fault::Rejected { errcode: -1, errmsg: "system busy".into() }
}

/// The binding `team` of whoever is at `url`, as a file has it that says nothing of retries, with these properties more.
fn at(url: &str, more: &[(&str, &str)]) -> Resources {
    let mut properties = vec![("id", "team"), ("url", url), ("secret", SECRET), ("retries", "")];
    properties.retain(|(name, _)| !more.iter().any(|(more, _)| more == name));
    properties.extend(more);
    Resources::binding("team", &properties)
}

fn serve(resources: &Resources) -> Host {
    Host::serve_with(resources, &["--metrics-port", "0"], &[])
}

#[track_caller]
fn assert_ended(reply: &Reply, status: u16, error: Option<&str>, outcome: Option<&str>, attempts: Option<&str>) {
    let told = (reply.status, reply.metadata("error"), reply.metadata("outcome"), reply.metadata("attempts"));
    assert_eq!(told, (status, error, outcome, attempts), "{reply:?}");
}

/// How many calls pause now.
fn pausing(host: &Host) -> f64 {
    value(&get(host).body, "dingtalk_calls", &["state=\"pausing\""]).unwrap()
}

#[test]
fn a_robot_that_is_busy_is_asked_three_times_more_at_most() {
    let robot = Robot::start();
    let host = serve(&at(&robot.url(), &[]));
    robot.fail(busy(), Times::Next(2.try_into().unwrap()));
    let begun = Instant::now();
    let reply = host.post("team", CREATE);
    assert_ended(&reply, 200, None, None, Some("3"));
    // 500 ms and 1 s, less a fifth.
    assert!(begun.elapsed() >= Duration::from_millis(1_200), "{:?}", begun.elapsed());
    assert_eq!((robot.stats().requests, robot.messages().len()), (3, 1));
    robot.fail(busy(), Times::Always);
    let reply = host.post("team", CREATE);
    assert_ended(&reply, 500, Some("rejected"), Some("not-sent"), Some("4"));
    assert!(reply.body.contains("system busy (errcode -1, busy)") && reply.body.contains("(attempts: 4)"), "{reply:?}");
    assert_eq!((robot.stats().requests, reply.metadata("class")), (7, Some("busy")));
    let text = get(&host).body;
    let labels = ["component=\"team\"", "operation=\"create\""];
    assert_eq!(value(&text, "dingtalk_retries_total", &labels), Some(5.0), "{text}");
    let ended = |success: &str| {
        value(&text, "dapr_component_output_binding_count", &[&labels[..], &[&format!("success={success:?}")]].concat())
    };
    assert_eq!((ended("true"), ended("false")), (Some(1.0), Some(1.0)), "one each, however many attempts:\n{text}");
    // What is taken at once says nothing of attempts.
    robot.recover();
    assert_ended(&host.post("team", CREATE), 200, None, None, None);
}

#[test]
fn a_robot_that_refuses_connections_and_comes_back_has_the_message() {
    // Bound and not listening: nobody else can take the port.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}/robot/send?access_token=t0ken", bound.local_addr().unwrap());
    let host = serve(&at(&url, &[]));
    let address = host.address();
    let posting = std::thread::spawn(move || send(address, "POST", "/v1.0/bindings/team", &[], CREATE.as_bytes()));
    host.wait_for_log(AGAIN);
    let guard = runtime.enter();
    let listener = bound.listen(8).unwrap().into_std().unwrap();
    drop(guard);
    listener.set_nonblocking(false).unwrap();
    let (mut robot, _) = listener.accept().unwrap();
    assert!(Received::read(&mut robot).unwrap().body.ends_with(b"}"));
    let (Answer::Keep(answer) | Answer::Close(answer)) = Answer::ok(OK);
    robot.write_all(&answer).unwrap();
    let reply = posting.join().unwrap();
    assert!(reply.status == 200 && reply.metadata("attempts").is_some(), "{reply:?}");
}

/// It hangs up while TLS is agreed on, so that nothing of the message can have left.
#[test]
fn a_connection_that_closes_before_anything_left_is_followed_by_another_one() {
    let secured = secured("127.0.0.1");
    let (url, opened) = behind_relay(&secured, 2);
    let host = Host::serve_with(&at(&url, &[]), &[], &[("SSL_CERT_FILE", secured.authority())]);
    assert_ended(&host.post("team", CREATE), 200, None, None, Some("3"));
    assert_eq!(opened.load(Ordering::SeqCst), 3);
}

/// The robot behind a relay, which closes the first `closes` connections; and how many there were.
fn behind_relay(secured: &Secured, closes: usize) -> (String, Arc<AtomicUsize>) {
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_, rest) = secured.url().split_once("/robot/").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let url = format!("https://{}/robot/{rest}", relay.local_addr().unwrap());
    let robot = secured.address();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    std::thread::spawn(move || {
        for client in relay.incoming().map_while(Result::ok) {
            if count.fetch_add(1, Ordering::SeqCst) < closes {
                // Read, so that closing is no reset.
                let _ = (&client).read(&mut [0; 4096]);
                let _ = client.shutdown(Shutdown::Both);
                continue;
            }
            std::thread::spawn(move || {
                let server = TcpStream::connect(robot).unwrap();
                let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
                let _ = std::io::copy(&mut &client, &mut &server);
            });
        }
    });
    (url, opened)
}

/// Nobody knows what became of it: it goes out again under the caller's own key against duplicates, or not at all.
#[test]
fn a_message_that_may_have_arrived_is_posted_once_unless_it_has_a_msg_uuid() {
    let robot = Witness::answering(|_| Answer::Close(Vec::new()));
    let host = serve(&at(&robot.url("/robot/send?access_token=t0ken"), &[]));
    assert_ended(&host.post("team", CREATE), 500, Some("unreachable"), Some("unknown"), None);
    assert_eq!(robot.received().len(), 1);
    let reply = host.post("team", WITH_UUID);
    assert_ended(&reply, 500, Some("unreachable"), Some("unknown"), Some("4"));
    assert!(reply.body.contains("send it again only with the same msgUuid"), "{reply:?}");
    let received = robot.received();
    assert_eq!(received.len(), 5);
    for again in &received[1..] {
        let body = String::from_utf8(again.body.clone()).unwrap();
        assert!(body.contains("\"msgUuid\":\"u1\""), "{body}");
    }
}

/// What people have to mend, what is the message's own fault, and what takes minutes.
#[test]
fn what_does_not_pass_in_a_moment_is_told_at_once() {
    let robot = Robot::start();
    let host = serve(&at(&robot.url(), &[]));
    for errcode in [130_101, 90_030, 310_000, 400_105, 7] {
        let before = robot.stats().requests;
        robot.fail(Fault::Rejected { errcode, errmsg: String::new() }, Times::ONCE);
        assert_ended(&host.post("team", WITH_UUID), 500, Some("rejected"), Some("not-sent"), None);
        assert_eq!(robot.stats().requests, before + 1, "{errcode}");
    }
    // Its authority is not known here.
    let secured = secured("127.0.0.1");
    let (url, opened) = behind_relay(&secured, 0);
    let host = Host::serve(&at(&url, &[]));
    assert_ended(&host.post("team", WITH_UUID), 500, Some("unreachable"), Some("not-sent"), None);
    assert_eq!(opened.load(Ordering::SeqCst), 1);
}

#[test]
fn the_property_and_the_time_of_a_call_say_how_often() {
    let robot = Robot::start();
    robot.fail(busy(), Times::Always);
    for (property, attempts) in [(("retries", "0"), None), (("retries", "1"), Some("2"))] {
        let before = robot.stats().requests;
        let host = serve(&at(&robot.url(), &[property]));
        assert_ended(&host.post("team", CREATE), 500, Some("rejected"), Some("not-sent"), attempts);
        let expected = attempts.map_or(1, |attempts: &str| attempts.parse().unwrap());
        assert_eq!(robot.stats().requests - before, expected, "{property:?}");
    }
    // Busy, and it took half of the time to say so.
    let slow = Witness::answering(|_| {
        std::thread::sleep(Duration::from_secs(5));
        Answer::ok(r#"{"errcode":-1,"errmsg":"system busy"}"#)
    });
    let host = serve(&at(&slow.url("/robot/send?access_token=t0ken"), &[("timeout", "10s")]));
    assert_ended(&host.post("team", CREATE), 500, Some("rejected"), Some("not-sent"), None);
    assert_eq!(slow.received().len(), 1);
    let wrong = at(&robot.url(), &[("retries", "4")]);
    let output =
        finish(command(&["serve", "--resources-path", wrong.path().to_str().unwrap(), "--dapr-http-port", "0"]), b"");
    assert!(stderr(&output).contains("property \"retries\" is no number from 0 to 3"), "{}", stderr(&output));
}

/// Also one that says "never", and whatever the property says.
#[test]
fn a_retry_policy_decides_alone() {
    let robot = Robot::start();
    robot.fail(busy(), Times::Always);
    for (max, requests) in [(0, 1), (1, 2)] {
        let policy = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata:\n  name: policies\nspec:\n  policies:\n    retries:\n      \
             DefaultRetryPolicy: {{policy: constant, duration: 10ms, maxRetries: {max}}}\n"
        );
        let before = robot.stats().requests;
        let host = serve(&at(&robot.url(), &[("retries", "3")]).with("resiliency.yaml", &policy));
        assert_eq!(host.post("team", CREATE).status, 500);
        assert_eq!(robot.stats().requests - before, requests);
    }
}

/// It counts, and what the gate says to it stands.
#[test]
fn each_attempt_has_its_turn_within_the_rate() {
    let robot = Robot::start();
    robot.fail(busy(), Times::Always);
    let host = serve(&at(&robot.url(), &[("rateLimit", "2/1h"), ("overflow", "refuse")]));
    assert_ended(&host.post("team", CREATE), 500, Some("withheld"), Some("not-sent"), Some("3"));
    assert_eq!(robot.stats().requests, 2);
}

/// Whose caller has hung up: nobody would learn of it.
#[test]
fn a_call_ends_with_its_caller() {
    let robot = Robot::start();
    robot.fail(busy(), Times::Always);
    let host = serve(&at(&robot.url(), &[]));
    let mut caller = TcpStream::connect(host.address()).unwrap();
    let head = format!("POST /v1.0/bindings/team HTTP/1.1\r\nhost: {}\r\n", host.address());
    write!(caller, "{head}content-length: {}\r\n\r\n{CREATE}", CREATE.len()).unwrap();
    host.wait_for_log(AGAIN);
    drop(caller);
    // It ends once no call is in progress, and would wait for this one.
    host.end();
    assert!(robot.stats().requests < 4, "{:?}", robot.stats());
}

/// Calls to a robot that is away hold no slot, and of one binding only so many pause: the ports are others', too.
#[test]
fn a_robot_that_is_away_takes_no_more_than_its_share_and_nothing_from_others() {
    const CALLS: usize = 64;
    let (away, robot) = (Robot::start(), Robot::start());
    let url = away.url();
    drop(away);
    let other = component("other", &[("id", "other"), ("url", &robot.url()), ("secret", SECRET)]);
    let host = serve(&at(&url, &[]).with("other.yaml", &other));
    let (address, barrier) = (host.address(), Arc::new(Barrier::new(CALLS)));
    let posting: Vec<_> = (0..CALLS)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            std::thread::spawn(move || {
                barrier.wait();
                send(address, "POST", "/v1.0/bindings/team", &[], CREATE.as_bytes())
            })
        })
        .collect();
    until("some pause", || pausing(&host) > 0.0);
    let begun = Instant::now();
    assert_eq!(host.post("other", CREATE).status, 200);
    let mut most = 0_f64;
    while posting.iter().any(|posting| !posting.is_finished()) {
        most = most.max(pausing(&host));
        assert!(begun.elapsed() < PATIENCE);
    }
    assert!((1.0..=16.0).contains(&most), "{most}");
    let replies: Vec<_> = posting.into_iter().map(|posting| posting.join().unwrap()).collect();
    let tried = |attempts| replies.iter().filter(|reply| reply.metadata("attempts") == attempts).count();
    assert!(tried(Some("4")) > 0 && tried(None) > 0, "{} {}", tried(Some("4")), tried(None));
    assert!(replies.iter().all(|reply| reply.metadata("outcome") == Some("not-sent")));
}
