//! Whatever happens, both components say the same.

use std::sync::Arc;

use dingtalk_bench::{COMPONENT_P2, COMPONENT_P3, Calls, Tenant, p2, wit};
use dingtalk_host::simulator::fault::Times;
use dingtalk_host::simulator::robot::RobotConfig;
use dingtalk_host::simulator::{Config, Simulator};
use wit_component::DecodedWasm;

use crate::{PREPARED, create};

const SECRET: &str = "SECsimulated";

async fn simulator() -> Simulator {
    let robot = RobotConfig {
        secret: Some(dingtalk_binding::secret::Secret::new(SECRET)),
        rate_limit: 0,
        ..RobotConfig::default()
    };
    Simulator::start(Config { robot, ..Config::default() }).await.unwrap()
}

/// One that waits longer than anything takes on a busy machine.
fn tenant(simulator: &Simulator, secret: &str) -> Tenant {
    waiting("60s", simulator, secret)
}

fn waiting(timeout: &str, simulator: &Simulator, secret: &str) -> Tenant {
    let properties = [("id", "team"), ("url", &simulator.url()), ("secret", secret), ("timeout", timeout)];
    // One time for both: an answer may repeat it.
    let now = dingtalk_host::clock::system()();
    Tenant::new(&properties).unwrap().at(Arc::new(move || now))
}

/// What both answer.
async fn both(
    old: &p2::Prepared,
    tenant: &Tenant,
    request: &wit::InvokeRequest,
) -> Result<wit::InvokeResponse, wit::InvokeError> {
    let expected = old.instance(tenant, Calls::ONE).await.unwrap().invoke(request).await.unwrap();
    let answer = PREPARED.instance(tenant, Calls::ONE).await.unwrap().invoke(request.clone()).await.unwrap();
    assert_eq!(answer, expected, "{request:?}");
    answer
}

#[tokio::test]
async fn a_signed_message_reaches_the_group() {
    let simulator = simulator().await;
    let mut instance = PREPARED.instance(&tenant(&simulator, SECRET), Calls::ONE).await.unwrap();
    let response = instance.invoke(create("The build is green again")).await.unwrap().unwrap();
    let metadata = [("statusCode", "200"), ("errcode", "0"), ("errmsg", "ok")];
    assert_eq!(response.metadata, metadata.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let messages = simulator.messages();
    assert_eq!(messages.len(), 1);
    assert!(messages[0].signed && messages[0].shown.contains("The build is green again"), "{messages:?}");
    assert!(instance.holds_nothing());

    // The same in one call, of an instance that knows nothing yet.
    let team = tenant(&simulator, SECRET);
    let mut instance = PREPARED.bare(&team, Calls::ONE).await.unwrap();
    let once = instance.run(async |calling| calling.call(team.properties.clone(), create("Hi")).await).await.unwrap();
    assert_eq!(once.unwrap().unwrap(), response);
    assert_eq!(simulator.messages().len(), 2);
    let mut instance = PREPARED.bare(&team, Calls::ONE).await.unwrap();
    let once = instance.run(async |calling| calling.call(Vec::new(), create("Hi")).await).await.unwrap();
    assert!(matches!(once.unwrap().unwrap_err(), wit::CallError::Init(error) if error.property == "id"));
}

#[tokio::test]
async fn what_the_robot_refuses_is_refused_alike() {
    let (simulator, old) = (simulator().await, p2::Prepared::new(COMPONENT_P2).unwrap());
    let good = tenant(&simulator, SECRET);
    for data in ["Hi", r#"{"msgtype":"text","text":{"content":"Hi"}}"#] {
        both(&old, &good, &create(data)).await.unwrap();
    }
    for request in [
        create("null"),
        create(r#"{"msgtype":"text","text":{}}"#),
        wit::InvokeRequest { operation: "delete".into(), ..create("Hi") },
        wit::InvokeRequest { operation: "get".into(), ..create("Hi") },
        wit::InvokeRequest { operation: "reply".into(), ..create("Hi") },
        wit::InvokeRequest { metadata: vec![("isAtAll".into(), "maybe".into())], ..create("Hi") },
    ] {
        both(&old, &good, &request).await.unwrap_err();
    }
    match both(&old, &tenant(&simulator, "SECwrong"), &create("Hi")).await.unwrap_err().cause {
        wit::InvokeCause::Rejected(wit::Rejection { check: Some(wit::SecurityCheck::Signature), .. }) => {}
        cause => panic!("{cause:?}"),
    }
}

#[tokio::test]
async fn failures_on_the_way_are_explained_alike() {
    let (simulator, old) = (simulator().await, p2::Prepared::new(COMPONENT_P2).unwrap());
    let (good, impatient) = (tenant(&simulator, SECRET), waiting("1s", &simulator, SECRET));
    for fault in [
        "reset",
        "half-body",
        "html",
        "throttled",
        "status=503",
        "status=204",
        "redirect=https://example.com/",
        "oversized",
        "empty",
        "missing-errcode",
        "rejected=130101:send too fast",
        "echo",
        "hang",
        "delay=5s",
    ] {
        simulator.set_fault(fault.parse().unwrap(), Times::Always);
        let tenant = if ["hang", "delay=5s"].contains(&fault) { &impatient } else { &good };
        let error = both(&old, tenant, &create("Hi")).await.unwrap_err();
        assert!(!format!("{error:?}").contains("simulated-access-token"), "{fault}: {error:?}");
    }
    let address = simulator.address();
    simulator.stop().await;
    let gone = Tenant::new(&[("id", "team"), ("url", &format!("http://{address}/robot/send"))]).unwrap();
    let error = both(&old, &gone, &create("Hi")).await.unwrap_err();
    assert!(matches!(&error.cause, wit::InvokeCause::Unreachable(reason) if reason.contains("refuses")), "{error:?}");
    assert_eq!(error.outcome, wit::Outcome::NotSent);
}

#[test]
fn the_imports_are_as_few_as_those_for_wasi_0_2() {
    let DecodedWasm::Component(resolve, world) = wit_component::decode(COMPONENT_P3).unwrap() else {
        panic!("not a component")
    };
    let functions: Vec<String> = resolve.worlds[world]
        .imports
        .iter()
        .filter_map(|(key, item)| match item {
            wit_parser::WorldItem::Interface { id, .. } if !resolve.interfaces[*id].functions.is_empty() => {
                Some(resolve.name_world_key(key))
            }
            _ => None,
        })
        .collect();
    let expected = [
        "wasi:clocks/system-clock@0.3.0",
        "wasi:http/types@0.3.0",
        "wasi:http/client@0.3.0",
        "dingtalk:component-p3/handler@0.2.0",
    ];
    assert_eq!(functions, expected);
}
