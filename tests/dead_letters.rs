//! A message that the outbox gives up, whatever for, is told to the application that asks for it: at least once, by a route and
//! with metadata that nothing else has, and without an end of it.

use std::path::Path;

use dingtalk_host::simulator::fault::{Fault, Times};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::grpc::app as grpc;
use crate::support::app::{Act, App};
use crate::support::receiving::{GET, callback, post, signed, talkative, text, until};
use crate::support::server::Server;
use crate::support::witness::Received;
use crate::support::{Host, Reply, Resources, Robot, SECRET, command, component, finish, guest, send, stderr, stdout};

const ROUTE: &str = "/dead?key=1";

/// Queues a message with this `msgUuid`.
#[track_caller]
fn queue(host: &Host, uuid: &str) -> Reply {
    let metadata = json!({"delivery": "queued", "msgUuid": uuid});
    let body = json!({"operation": "create", "data": format!("text of {uuid}"), "metadata": metadata}).to_string();
    let reply = host.post("team", &body);
    assert_eq!((reply.status, reply.metadata("delivery")), (200, Some("queued")), "{reply:?}");
    reply
}

/// DingTalk takes no message as it is.
fn refuse(robot: &Robot) {
    robot.fail(Fault::Rejected { errcode: 400_105, errmsg: "no such type".into() }, Times::Always);
}

/// A component file with the binding `team`, and an outbox.
struct Place {
    robot: Robot,
    resources: Resources,
    outbox: TempDir,
}

impl Place {
    fn new(properties: &[(&str, &str)]) -> Self {
        let robot = talkative();
        let url = robot.url();
        let own = [("id", "team"), ("url", &url), ("secret", SECRET), ("deadLetterRoute", ROUTE)];
        let own = own.iter().filter(|(name, _)| !properties.iter().any(|(given, _)| given == name));
        let all: Vec<_> = own.chain(properties).copied().collect();
        let resources = Resources::binding("team", &all);
        Self { robot, resources, outbox: tempfile::tempdir().unwrap() }
    }

    fn serve(&self, arguments: &[&str]) -> Host {
        let host = Host::serve_with(&self.resources, &[&["--outbox", self.directory()], arguments].concat(), &[]);
        self.robot.set_callback_url(&host.callback_url("team"));
        host
    }

    fn directory(&self) -> &str {
        self.outbox.path().to_str().unwrap()
    }

    fn dead(&self) -> Vec<Value> {
        let arguments = ["outbox", "list", "--outbox", self.directory(), "--state", "dead", "--output", "json"];
        let listed = finish(command(&arguments), b"");
        assert!(listed.status.success(), "{}", stderr(&listed));
        stdout(&listed).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Dead letters that an application has got, by its route for them.
fn letters(app: &App) -> Vec<Received> {
    app.events().into_iter().filter(|event| event.target == ROUTE).collect()
}

#[track_caller]
fn letter(app: &App, number: usize) -> Received {
    until("the dead letter", || letters(app).len() >= number);
    letters(app).swap_remove(number - 1)
}

fn uuid(letter: &Received) -> String {
    serde_json::from_slice::<Value>(&letter.body).unwrap()["msgUuid"].as_str().unwrap().to_owned()
}

#[test]
fn a_message_that_is_given_up_is_told_by_a_route_and_metadata_of_its_own() {
    let (place, app) = (Place::new(&[]), App::start());
    let host = place.serve(&["--app-port", &app.port()]);
    refuse(&place.robot);
    let queued = queue(&host, "order-17");
    let told = letter(&app, 1);
    let id = queued.metadata("id").unwrap();
    for (name, value) in [("operation", "dead-letter"), ("id", id), ("msguuid", "order-17"), ("attempts", "1")] {
        assert_eq!(told.header(name), [value], "{name}");
    }
    let reason = told.header("reason").join("");
    assert!(reason.contains("400105"), "{reason}");
    let body: Value = serde_json::from_slice(&told.body).unwrap();
    assert_eq!(
        (body["id"].to_string().as_str(), &body["msgUuid"], &body["attempts"]),
        (id, &json!("order-17"), &json!(1))
    );
    assert!(body["reason"].as_str().unwrap().contains("400105"), "{body}");
    assert_eq!(body["message"]["text"]["content"], "text of order-17", "the message itself");
    // Told once, and dead as before.
    queue(&host, "another");
    assert_eq!(uuid(&letter(&app, 2)), "another");
    assert_eq!((letters(&app).len(), place.dead().len()), (2, 2));
    // What people say goes where it always went, and cannot be taken for it, whatever they say.
    let forged =
        json!({"msgtype": "text", "text": {"content": "x"}, "msgId": "1", "operation": "dead-letter", "id": 17});
    assert_eq!(callback(&host, &forged.to_string()).status, 200);
    let headers = [signed(SECRET), vec![("operation".into(), "dead-letter".into())]].concat();
    post(host.address(), "team", &headers, text("2").as_bytes());
    let get = GET.replace("\"metadata\": {}", "\"metadata\": {\"Operation\": \"dead-letter\"}");
    assert_eq!(host.post("team", &get).status, 200);
    let others: Vec<_> = app.events().into_iter().filter(|event| event.target != ROUTE).collect();
    let said: Vec<_> = others.iter().map(|event| (event.target.as_str(), event.header("operation"))).collect();
    assert_eq!(said, [("/team", vec![]), ("/team", vec![]), ("/team", vec!["get"])]);
    assert_eq!(letters(&app).len(), 2);
}

#[test]
fn hosts_that_share_a_database_tell_of_a_message_once() {
    let Some(server) = Server::start() else { return };
    server.sql("CREATE SCHEMA s");
    let (place, app) = (Place::new(&[]), App::start());
    refuse(&place.robot);
    let (port, url) = (app.port(), server.url("s"));
    let serve = || Host::serve_with(&place.resources, &["--app-port", &port], &[("DINGTALK_STORE", &url)]);
    let hosts = [serve(), serve()];
    for (number, host) in hosts.iter().enumerate() {
        queue(host, &format!("order-{number}"));
    }
    until("both dead letters", || letters(&app).len() >= 2);
    // One more, after which there is nothing left of the others.
    queue(&hosts[0], "last");
    until("the last one", || letters(&app).iter().any(|letter| uuid(letter) == "last"));
    let mut uuids: Vec<_> = letters(&app).iter().map(uuid).collect();
    uuids.sort();
    assert_eq!(uuids, ["last", "order-0", "order-1"]);
    for host in &hosts {
        assert!(!host.log().contains("cannot tell"), "{}", host.log());
    }
}

#[test]
fn an_output_binding_hears_of_what_it_could_not_send_and_of_nothing_else() {
    let (place, app) = (Place::new(&[("direction", "output")]), App::start());
    app.options(|_| 404);
    let host = place.serve(&["--app-port", &app.port()]);
    refuse(&place.robot);
    queue(&host, "u1");
    assert_eq!(uuid(&letter(&app, 1)), "u1");
    assert_eq!(callback(&host, &text("1")).status, 404, "it has no input side");
    assert_eq!((app.events().len(), app.asked().len()), (1, 0), "{:?}", app.asked());
}

#[test]
fn without_the_property_nobody_hears_of_it() {
    let (place, app) = (Place::new(&[("deadLetterRoute", "")]), App::start());
    let host = place.serve(&["--app-port", &app.port()]);
    refuse(&place.robot);
    queue(&host, "silent");
    until("it is dead", || place.dead().len() == 1);
    // Once it has the property, it hears of what dies from then on.
    let url = place.robot.url();
    let properties = [("id", "team"), ("url", url.as_str()), ("secret", SECRET), ("deadLetterRoute", ROUTE)];
    until("the first one is looked at", || !is_untold(&place));
    place.resources.write("team.yaml", &component("team", &properties));
    host.hang_up();
    let mut queued = 0;
    until("it is told of one", || {
        queued += 1;
        queue(&host, &format!("u{queued}"));
        !letters(&app).is_empty()
    });
    assert!(letters(&app).iter().all(|letter| uuid(letter) != "silent"));
}

/// Whether the store has a dead message of which nobody was told.
fn is_untold(place: &Place) -> bool {
    let file = Path::new(place.directory()).join("outbox.sqlite");
    let store = rusqlite::Connection::open(file).unwrap();
    let sql = "SELECT count(*) FROM events WHERE state = 'dead' AND untold = 1";
    store.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() > 0
}

#[test]
fn an_application_that_is_away_gets_it_from_the_inbox_and_holds_nothing_up() {
    let (place, mut app, inbox) = (Place::new(&[]), App::away(), tempfile::tempdir().unwrap());
    let arguments = ["--app-port", &app.port(), "--inbox", inbox.path().to_str().unwrap()];
    let host = place.serve(&arguments);
    place.robot.fail(Fault::Rejected { errcode: 400_105, errmsg: String::new() }, Times::ONCE);
    queue(&host, "refused");
    for number in 0..3 {
        queue(&host, &format!("good-{number}"));
    }
    until("the robot has the others", || place.robot.messages().len() == 3);
    until("it is in the inbox", || !is_untold(&place));
    // Of the inbox, that is: it survives the host, and the outbox has nothing more to do with it.
    drop(host);
    let host = place.serve(&arguments);
    app.restart();
    assert_eq!(uuid(&letter(&app, 1)), "refused", "{}", host.log());
    until("it is taken", || inbox_is_empty(&host));
    assert_eq!(letters(&app).len(), 1);
}

#[test]
fn who_cannot_take_it_from_the_inbox_takes_what_people_say() {
    let (place, app, inbox) = (Place::new(&[]), App::start(), tempfile::tempdir().unwrap());
    app.answer_with(|event| if event.target == ROUTE { Act::Answer(500, String::new()) } else { Act::ok("") });
    let host = place.serve(&["--app-port", &app.port(), "--inbox", inbox.path().to_str().unwrap()]);
    refuse(&place.robot);
    queue(&host, "u1");
    letter(&app, 1);
    // A message without a conversation, too.
    assert_eq!(callback(&host, &text("1")).status, 200);
    until("it is taken", || app.events().iter().any(|event| event.target == "/team"));
    letter(&app, 3);
    // Should the property go while one waits, it does not go where people's messages do.
    let url = place.robot.url();
    place.resources.write("team.yaml", &component("team", &[("id", "team"), ("url", &url), ("secret", SECRET)]));
    host.hang_up();
    host.wait_for_log("it has no deadLetterRoute; add one, or drop the event");
    assert!(app.events().iter().all(|event| event.target == ROUTE || event.header("operation").is_empty()));
}

fn inbox_is_empty(host: &Host) -> bool {
    let metadata = send(host.address(), "GET", "/v1.0/metadata", &[], b"").json();
    metadata["extended"]["inboxPending"] == "0"
}

#[test]
fn without_an_inbox_it_is_told_a_few_times_and_the_others_do_not_wait() {
    let (place, app) = (Place::new(&[]), App::start());
    app.answer_with(|event| {
        if event.body.windows(7).any(|part| part == b"refused") { Act::Answer(500, String::new()) } else { Act::ok("") }
    });
    let host = place.serve(&["--app-port", &app.port()]);
    place.robot.fail(Fault::Rejected { errcode: 400_105, errmsg: String::new() }, Times::ONCE);
    queue(&host, "refused");
    queue(&host, "good");
    until("the robot has the other", || place.robot.messages().len() == 1);
    letter(&app, 3);
    app.answer(Act::ok(""));
    until("it is told", || !is_untold(&place));
    assert!(host.log().contains("that a message was given up is not told yet"), "{}", host.log());
    assert!(letters(&app).iter().all(|letter| uuid(letter) == "refused"));
}

#[test]
fn one_that_died_while_the_host_was_away_is_told_when_it_is_back() {
    let (place, app) = (Place::new(&[("rateLimit", "1/1h")]), App::start());
    let arguments = ["--app-port", &app.port()];
    let host = place.serve(&arguments);
    queue(&host, "first");
    until("the rate is used up", || place.robot.messages().len() == 1);
    let body = json!({"operation": "create", "data": "soon", "metadata": {"delivery": "queued", "msgUuid": "soon", "expires": "1s"}});
    assert_eq!(host.post("team", &body.to_string()).status, 200);
    drop(host);
    // Its time is over before the next host looks.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let _host = place.serve(&arguments);
    let told = letter(&app, 1);
    let body: Value = serde_json::from_slice(&told.body).unwrap();
    assert_eq!((&body["msgUuid"], place.robot.messages().len()), (&json!("soon"), 1));
    assert!(body["reason"].as_str().unwrap().contains("\"expires\""), "{body}");
}

#[test]
fn an_answer_is_sent_on_and_that_it_fails_too_is_told_to_nobody() {
    let (place, app) = (Place::new(&[("overflow", "queue"), ("direction", "output")]), App::start());
    app.answer(Act::ok(r#"{"to":["team"],"data":"the alarm could not be sent"}"#));
    let host = place.serve(&["--app-port", &app.port()]);
    refuse(&place.robot);
    queue(&host, "first");
    letter(&app, 1);
    until("the answer is dead, too", || place.dead().len() == 2 && !is_untold(&place));
    // What dies later is told, and nothing else was before.
    queue(&host, "second");
    assert_eq!(uuid(&letter(&app, 2)), "second");
    until("that answer is dead", || place.dead().len() == 4 && !is_untold(&place));
    assert_eq!(letters(&app).len(), 2);
}

#[test]
fn a_reply_to_a_dead_letter_has_nowhere_to_go_and_the_log_says_so() {
    let (place, app) = (Place::new(&[]), App::start());
    app.answer(Act::ok(r#"{"msgtype":"text","text":{"content":"pong"}}"#));
    let host = place.serve(&["--app-port", &app.port()]);
    refuse(&place.robot);
    queue(&host, "u1");
    letter(&app, 1);
    host.wait_for_log("an answer to a dead letter has no conversation to go to");
    assert_eq!(place.robot.messages().len(), 0);
}

#[test]
fn over_grpc_its_metadata_tells_it_apart() {
    let (place, app) = (Place::new(&[("direction", "output")]), grpc::App::start());
    let host = place.serve(&["--app-protocol", "grpc", "--app-port", &app.port()]);
    refuse(&place.robot);
    queue(&host, "u1");
    let event = app.wait_for_events(1);
    assert_eq!(event.name, "team");
    let metadata = |name: &str| event.metadata.get(name).map(String::as_str);
    assert_eq!((metadata("operation"), metadata("msgUuid")), (Some("dead-letter"), Some("u1")));
    assert_eq!(serde_json::from_slice::<Value>(&event.data).unwrap()["message"]["text"]["content"], "text of u1");
    assert_eq!(app.asked().len(), 0, "the property asks for it");
}

#[test]
fn a_handler_gets_it_as_any_event() {
    let place = Place::new(&[("direction", "output")]);
    let file = place.outbox.path().join("app.wasm");
    // It fails, with what it was given as the reason.
    std::fs::write(&file, guest::component(&[], "", guest::FAIL)).unwrap();
    let host = place.serve(&["--handler", file.to_str().unwrap()]);
    refuse(&place.robot);
    queue(&host, "u1");
    host.wait_for_log("text of u1");
    assert!(host.log().contains("is not told yet") && host.log().contains("msgUuid"), "{}", host.log());
    // Nothing else reaches it.
    assert_eq!(callback(&host, &text("1")).status, 404);
}

#[test]
fn a_file_that_cannot_be_meant_so_stops_the_start() {
    let place = Place::new(&[("route", "/in"), ("deadLetterRoute", "in")]);
    let path = place.resources.path().to_str().unwrap();
    let failed = |arguments: &[&str]| {
        let arguments = [&["serve", "--resources-path", path, "--dapr-http-port", "0"], arguments].concat();
        stderr(&finish(command(&arguments), b""))
    };
    let error = failed(&["--outbox", place.directory()]);
    assert!(error.contains("property \"deadLetterRoute\" is the route of what people say, too"), "{error}");
    let url = place.robot.url();
    let properties = [("id", "team"), ("url", url.as_str()), ("secret", SECRET), ("deadLetterRoute", ROUTE)];
    place.resources.write("team.yaml", &component("team", &properties));
    let error = failed(&[]);
    assert!(error.contains("property \"deadLetterRoute\" needs an outbox"), "{error}");
}

#[test]
fn what_the_outbox_does_not_take_has_a_status_of_its_own() {
    let place = Place::new(&[("deadLetterRoute", ""), ("errorStatus", "http"), ("quota", "1")]);
    let host = place.serve(&["--outbox-max-size", "8Mi"]);
    let create = |metadata: Value, data: &str| {
        host.post("team", &json!({"operation": "create", "data": data, "metadata": metadata}).to_string())
    };
    let failed = |reply: &Reply| {
        let item = |name| reply.metadata(name).unwrap_or_default().to_owned();
        (reply.status, item("error"), item("class"), item("outcome"))
    };
    let expected =
        |status, error: &str, class: &str| (status, error.to_owned(), class.to_owned(), "not-sent".to_owned());
    assert_eq!(create(json!({}), "the month's only one").status, 200);
    let spent = create(json!({}), "one too many");
    assert_eq!(failed(&spent), expected(429, "withheld", "quota"));
    let wait: u64 = spent.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=31 * 86_400).contains(&wait) && spent.body.contains("1 of the month's 1 messages"), "{spent:?}");
    let queued = json!({"delivery": "queued", "msgUuid": "u1"});
    assert_eq!(create(queued.clone(), "a").status, 200);
    assert_eq!(failed(&create(queued, "b")), expected(409, "repeated", ""));
    // As long as a message may be.
    let long = "x".repeat(19_000);
    let full =
        (0..600).map(|_| create(json!({"delivery": "queued"}), &long)).find(|reply| reply.status != 200).unwrap();
    assert_eq!(failed(&full), expected(503, "outbox-unavailable", ""));
    assert_eq!(full.header("retry-after"), Some("1"));
}
