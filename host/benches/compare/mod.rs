//! Ways to post the same signed message to the same robot, side by side: blocks of calls of each in turn.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::contender::{Block, Contender, FRESH, NATIVE, REWOUND};
use super::robot::Robot;
use super::{Error, median, thousands};

const AT_ONCE: [usize; 3] = [1, 16, 64];
const ROUNDS: usize = 15;
const BLOCK: Duration = Duration::from_millis(400);

/// Dapr's binding, as the table calls it.
const DAPR: &str = "Dapr's Go binding";

/// What the host's own mode is to reach: at once, beside whom, and how much of their calls.
const AIMS: [(usize, &str, f64); 4] = [(1, DAPR, 1.0), (16, DAPR, 1.3), (64, DAPR, 1.8), (16, NATIVE, 0.5)];

/// Median, lowest and highest.
pub(crate) struct Spread([f64; 3]);

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        let middle = median(&mut values);
        Self([middle, values[0], values[values.len() - 1]])
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [median, lowest, highest] = self.0;
        write!(f, "{median:.2} ({lowest:.2} to {highest:.2})")
    }
}

/// What was measured of one contender, round by round.
#[derive(Default)]
pub(crate) struct Rounds {
    rates: Vec<f64>,
    used: Vec<f64>,
}

impl Rounds {
    pub(crate) fn push(&mut self, block: &Block) {
        self.rates.push(block.calls / block.took * 1e9);
        self.used.push(block.used / block.calls / 1e3);
    }

    /// Calls a second, and microseconds of the processor a call.
    pub(crate) fn cells(&self) -> String {
        let (mut rates, mut used) = (self.rates.clone(), self.used.clone());
        format!("{}/s | {:.1} µs", thousands(median(&mut rates)), median(&mut used))
    }

    /// Of the rates, in the same rounds.
    pub(crate) fn to(&self, other: &Self) -> Spread {
        Spread::of(self.rates.iter().zip(&other.rates).map(|(ours, theirs)| ours / theirs))
    }
}

/// Who is when in a round of so many: nobody is always behind the same one.
pub(crate) fn turns(round: usize, all: usize) -> impl Iterator<Item = usize> {
    (0..all).map(move |turn| if round.is_multiple_of(2) { turn } else { all - 1 - turn })
}

pub(crate) fn measure() -> Result<(), Error> {
    let mut robot = Robot::start(None)?;
    let mut contenders = vec![Contender::start(NATIVE, robot.address, 1)?];
    let missing = match dapr() {
        Ok(program) => {
            contenders.push(Contender::dapr(DAPR, &program, robot.address)?);
            None
        }
        Err(reason) => Some(reason),
    };
    contenders.push(Contender::start(REWOUND, robot.address, 1)?);
    contenders.push(Contender::start(FRESH, robot.address, 1)?);
    println!(
        "\n| at once | who posts | calls | processor time a call | to native (lowest to highest of {ROUNDS} rounds) | to {DAPR} \
         | connections for 1,000 calls |\n|---|---|---|---|---|---|---|"
    );
    let unmeasured = robot.seen()?;
    for at_once in AT_ONCE {
        for contender in &mut contenders {
            contender.block(at_once, 1_000, BLOCK / 2)?;
        }
        let mut all: Vec<(Rounds, f64, f64)> = contenders.iter().map(|_| Default::default()).collect();
        for round in 0..ROUNDS {
            for at in turns(round, contenders.len()) {
                let before = robot.seen()?;
                let block = contenders[at].block(at_once, 1, BLOCK)?;
                let after = robot.seen()?;
                let (rounds, calls, connections) = &mut all[at];
                rounds.push(&block);
                *calls += block.calls;
                *connections += after.connections - before.connections;
            }
        }
        let of = |name| contenders.iter().position(|contender| contender.name == name).map(|at| &all[at].0);
        for (contender, (rounds, calls, connections)) in contenders.iter().zip(&all) {
            let to = |name: &'static str| match of(name).filter(|_| ![NATIVE, name].contains(&contender.name)) {
                Some(other) => {
                    let is = |aim: &&(usize, &str, f64)| (aim.0, aim.1) == (at_once, name) && contender.name == REWOUND;
                    let aim = AIMS.iter().find(is).map(|aim| format!(", aim {}", aim.2)).unwrap_or_default();
                    format!("{}{aim}", rounds.to(other))
                }
                None => String::new(),
            };
            let (to_native, to_dapr) = (to(NATIVE), to(DAPR));
            let (cells, connections) = (rounds.cells(), connections / calls * 1e3);
            println!("| {at_once} | {} | {cells} | {to_native} | {to_dapr} | {connections:.1} |", contender.name);
        }
    }
    let all = robot.seen()?;
    let (messages, used) = (all.messages - unmeasured.messages, all.used - unmeasured.used);
    println!("\nThe robot, one thread, used {:.1} µs of the processor for a message.", used / messages / 1e3);
    if let Some(reason) = missing {
        println!("NOT MEASURED: {DAPR}: {reason}");
    }
    Ok(())
}

/// Builds the program around Dapr's binding, where `make daprd` keeps what Go downloads and compiles. The error says why it
/// is not to be had.
fn dapr() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("daprd");
    let program = folder.join("contender");
    let built = Command::new("go")
        .args(["build", "-ldflags", "-s -w", "-o"])
        .args([&program, Path::new(".")])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/dapr"))
        .env("GOPATH", folder.join("go"))
        .env("GOCACHE", folder.join("cache"))
        .env("GOWORK", "off")
        // Without the first, what Go downloads could not be removed like the rest of target.
        .env("GOFLAGS", "-modcacherw -buildvcs=false")
        .output()
        .map_err(|error| format!("there is no go ({error}); install Go 1.26.3 or newer"))?;
    if built.status.success() {
        Ok(program)
    } else {
        Err(format!("go cannot build host/benches/dapr: {}", String::from_utf8_lossy(&built.stderr).trim()))
    }
}
