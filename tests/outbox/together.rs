//! What is sent at once and what is queued are one stream to their robot.

use std::time::Duration;

use super::{Bench, counts, create, queued, strict, team, texts, until};
use crate::support::{Robot, SECRET, component, pause};

/// Of one robot, by two bindings: one queues, and the calls of the other wait for their turns.
fn bench(robot: &Robot, rate: &str) -> Bench {
    let bench = Bench::of(&team(&robot.url(), &[("overflow", "queue"), ("rateLimit", rate)]));
    let url = robot.url();
    let waits = component("waits", &[("id", "waits"), ("url", &url), ("secret", SECRET), ("rateLimit", rate)]);
    bench.resources.write("waits.yaml", &waits);
    bench
}

#[test]
fn a_direct_message_beside_queued_ones_is_never_one_too_many() {
    const QUEUED: usize = 30;
    const DIRECT: usize = 5;
    let robot = strict(10, Duration::from_secs(1));
    let bench = bench(&robot, "10/1s");
    let host = bench.serve(&[]);
    std::thread::scope(|scope| {
        for sender in 0..3 {
            let host = &host;
            scope.spawn(move || {
                for number in 0..QUEUED / 3 {
                    queued(host, &format!("queued {sender} {number}"), &[("conversation", &sender.to_string())]);
                }
            });
            scope.spawn(move || {
                for number in 0..DIRECT {
                    // One waits for its turn, the other comes again when it is told to.
                    let reply = host.post("waits", &create(&format!("waits {sender} {number}"), &[]));
                    assert_eq!(reply.status, 200, "{reply:?}");
                    let direct = create(&format!("direct {sender} {number}"), &[("delivery", "direct")]);
                    loop {
                        let reply = host.post("team", &direct);
                        if reply.status == 200 {
                            break;
                        }
                        assert_eq!(reply.metadata("class"), Some("rate-limited"), "{reply:?}");
                        pause();
                    }
                }
            });
        }
    });
    until(&host, "all is sent", || counts(&host) == (0, 0));
    let stats = robot.stats();
    assert!(stats.rejected.is_empty(), "{stats:?}");
    let mut seen = texts(&robot);
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), stats.accepted), (QUEUED + 6 * DIRECT, (QUEUED + 6 * DIRECT) as u64));
}
