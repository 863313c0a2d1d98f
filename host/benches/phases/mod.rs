//! Where the time of one call goes, as far as it can be told from outside: no clock is read in what every call runs.
//!
//! A host that refuses to send tells what signing and building take, and the robot, which shares this machine's clock, when
//! the message was there and when its answer left.

use std::sync::Arc;
use std::time::Duration;

use dingtalk_host::sandbox::{Instances, Limits, Request};
use tokio::runtime::Runtime;

use super::contender::{Call, Native, Sandboxed};
use super::robot::{Robot, STAMPED};
use super::{Error, MESSAGE, median, monotonic, runtime, sandbox, tenant, tenant_with_way_to, url};

const CALLS: usize = 3_000;

pub(crate) fn measure() -> Result<(), Error> {
    let mut robot = Robot::start(None)?;
    let runtime = runtime()?;
    runtime.block_on(instance(&robot))?;
    println!("\n| one call at a time, medians of {CALLS} | native | rewound | fresh |\n|---|---|---|---|");
    let stamped = url(robot.address).replace("/robot/send", &format!("/robot/{STAMPED}/send"));
    let mut columns = vec![column(&runtime, &mut robot, Arc::new(Native::new([stamped.clone()])?))?];
    let mut nothing = Vec::new();
    for lifetime in [Instances::Rewound, Instances::Fresh] {
        let sandbox = sandbox(Limits { lifetime, ..Limits::default() })?;
        let client = Arc::new(Sandboxed::of(sandbox.clone(), tenant(&sandbox, &stamped)?, MESSAGE.to_vec()));
        columns.push(column(&runtime, &mut robot, Arc::clone(&client))?);
        nothing.push(runtime.block_on(runtime.spawn(async move {
            let mut times = Vec::new();
            for _ in 0..CALLS {
                // Refused at once: nobody reads messages here.
                let start = std::time::Instant::now();
                if client.invoke("get").await.is_ok() {
                    return Err("get was not refused".into());
                }
                times.push(start.elapsed());
            }
            Ok::<_, Error>(median(&mut times))
        }))??);
    }
    let names =
        ["all", "until the robot has the message", "in the robot", "from its answer to the end: read, and understood"];
    for (row, name) in names.into_iter().enumerate() {
        let cells: Vec<_> = columns.iter().map(|column| micros(column[row])).collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
    println!("| a call that is refused before it does anything | | {} | {} |", micros(nothing[0]), micros(nothing[1]));
    Ok(())
}

/// A call's parts by the robot's clock.
fn column(runtime: &Runtime, robot: &mut Robot, client: Arc<impl Call>) -> Result<[Duration; 4], Error> {
    let calls = runtime.block_on(runtime.spawn(async move {
        for _ in 0..CALLS / 10 {
            client.call().await?;
        }
        let mut calls = Vec::new();
        for _ in 0..CALLS {
            let start = monotonic();
            client.call().await?;
            calls.push([start, monotonic()]);
        }
        Ok::<_, Error>(calls)
    }))??;
    let stamps = robot.stamps()?;
    let stamps =
        stamps.get(CALLS / 10..).filter(|stamps| stamps.len() == CALLS).ok_or("the robot has seen other calls")?;
    let mut parts: [Vec<Duration>; 4] = Default::default();
    for ([start, end], [arrived, answered]) in calls.into_iter().zip(stamps) {
        let times = [end - start, *arrived - start, *answered - *arrived, end - *answered];
        parts.iter_mut().zip(times).for_each(|(part, time)| part.push(time));
    }
    Ok(parts.map(|mut part| median(&mut part)))
}

/// A fresh instance, step by step.
async fn instance(robot: &Robot) -> Result<(), Error> {
    let sandbox = sandbox(Limits { lifetime: Instances::Fresh, ..Limits::default() })?;
    let url = url(robot.address);
    let request = || Request { operation: "create".into(), data: MESSAGE.to_vec(), metadata: Vec::new() };
    let mut all = Vec::new();
    for allowed in ["http://127.0.0.1:9/robot/send?access_token=another", &url] {
        let tenant = tenant_with_way_to(&sandbox, &url, allowed)?;
        let mut phases: [Vec<Duration>; 4] = Default::default();
        for _ in 0..CALLS {
            let times = sandbox.phases(&tenant, request()).await?;
            phases.iter_mut().zip(times).for_each(|(phase, time)| phase.push(time));
        }
        all.push(phases.map(|mut times| median(&mut times)));
    }
    let [instantiate, init, refused, dropped] = all[0];
    println!("\n| a fresh instance, step by step | median of {CALLS} |\n|---|---|");
    for (name, time) in [
        ("instantiate", instantiate),
        ("init", init),
        ("sign and build, until the host refuses to send", refused),
        ("send, wait for the answer, and read it", all[1][2].saturating_sub(refused)),
        ("drop", dropped),
    ] {
        println!("| {name} | {} |", micros(time));
    }
    Ok(())
}

fn micros(time: Duration) -> String {
    format!("{:.1} µs", time.as_secs_f64() * 1e6)
}
