//! Whether a tenant costs others anything by being there: calls that are spread over all of them.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Error;
use super::compare::{Rounds, turns};
use super::contender::{Contender, FRESH, NATIVE, REWOUND};
use super::robot::Robot;

const MANY: usize = 10_000;
const TENANTS: [usize; 3] = [1, 100, MANY];
/// How much of one tenant's calls many are to have together.
const AIM: f64 = 0.8;
const AT_ONCE: usize = 16;
const ROUNDS: usize = 11;
const BLOCK: Duration = Duration::from_millis(500);

/// Connections from all of them at once to one robot, and what a process has open beside.
const OPEN_FILES: u64 = (MANY + 1_000) as u64;

pub(crate) fn measure() -> Result<(), Error> {
    // The robot and the contenders inherit it.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    if let Some(most) = most.filter(|most| *most < OPEN_FILES) {
        println!("\nNOT MEASURED: {MANY} tenants: they need {OPEN_FILES} open files, and `ulimit -Hn` is {most}");
        return Ok(());
    }
    println!(
        "\n| who posts | tenants | calls, {AT_ONCE} at once | processor time a call | to 1 tenant (lowest to highest of {ROUNDS} \
         rounds) | memory of a tenant that has not sent | of one that has |\n|---|---|---|---|---|---|---|"
    );
    for name in [NATIVE, FRESH, REWOUND] {
        // One for each kind: it has a connection from every tenant.
        let robot = Robot::start(None)?;
        let start = |tenants| Contender::start(name, robot.address, tenants);
        let mut contenders = TENANTS.into_iter().map(start).collect::<Result<Vec<_>, _>>()?;
        let idle = memory(&mut contenders)?;
        for (contender, tenants) in contenders.iter_mut().zip(TENANTS) {
            // Each has a connection, and has sent often enough to have an instance if it gets one.
            contender.block(AT_ONCE, 4 * tenants, BLOCK)?;
        }
        let mut all: Vec<Rounds> = contenders.iter().map(|_| Rounds::default()).collect();
        for round in 0..ROUNDS {
            for at in turns(round, TENANTS.len()) {
                all[at].push(&contenders[at].block(AT_ONCE, 1, BLOCK)?);
            }
        }
        let warm = memory(&mut contenders)?;
        for at in 0..contenders.len() {
            let to_one = match TENANTS[at] {
                1 => String::new(),
                MANY if name != NATIVE => format!("{}, aim {AIM}", all[at].to(&all[0])),
                _ => all[at].to(&all[0]).to_string(),
            };
            // What one and a hundred differ in is less than what an allocator keeps.
            let each = |memory: &[f64]| match TENANTS[at] {
                MANY => format!("{:.1} KB", (memory[at] - memory[0]) / (MANY - 1) as f64 / 1e3),
                _ => String::new(),
            };
            let (tenants, cells) = (super::thousands(TENANTS[at] as f64), all[at].cells());
            println!("| {name} | {tenants} | {cells} | {to_one} | {} | {} |", each(&idle), each(&warm));
        }
    }
    Ok(())
}

fn memory(contenders: &mut [Contender]) -> Result<Vec<f64>, Error> {
    contenders.iter_mut().map(Contender::resident).collect()
}
