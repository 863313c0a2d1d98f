//! Nothing that is secret is in what the outbox keeps, shows or says.

use dingtalk_host::simulator::fault::{Fault, Times};

use super::{Bench, create, queued, until_counts};
use crate::support::{Robot, SECRET, TOKEN};

#[test]
fn no_file_list_or_log_has_a_token_or_a_secret() {
    let robot = Robot::start();
    let bench = Bench::new(&robot, &[("rateLimit", "1000/1m"), ("quota", "1000"), ("quotaReserve", "0")]);
    let host = bench.serve(&[]);
    // An answer that repeats the URL with token and signature, and the message.
    robot.fail(Fault::Echo, Times::ONCE);
    queued(&host, "echoed", &[]);
    until_counts(&host, 0, 1);
    robot.fail(Fault::Rejected { errcode: 130_101, errmsg: format!("{TOKEN} is too fast") }, Times::ONCE);
    queued(&host, "held", &[("conversation", "c")]);
    host.wait_for_log("messages wait in the outbox");
    host.post("team", &create("direct", &[("delivery", "direct")]));

    // Its journal too, while the host runs and after it has ended.
    let look = |when: &str| {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(bench.outbox()).unwrap() {
            let path = entry.unwrap().path();
            names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
            let bytes = std::fs::read(&path).unwrap();
            let mut all = vec![(path.display().to_string().into_bytes(), "name"), (bytes, "bytes")];
            for (bytes, what) in all.drain(..) {
                for secret in [TOKEN, SECRET] {
                    let has = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                    assert!(!has, "{when}: the {what} of {} have {secret}", path.display());
                }
            }
        }
        assert!(names.iter().any(|name| name == "outbox.sqlite"), "{names:?}");
        let listed = bench.operate(&["list", "--state", "all", "--show-data"]);
        let shown = bench.operate(&["show", "1"]);
        assert!(listed.1.contains("echoed") && shown.1.contains("echoed"), "{listed:?} {shown:?}");
        for text in [listed.1, listed.2, shown.1, shown.2] {
            assert!(!text.contains(TOKEN) && !text.contains(SECRET), "{when}: {text}");
        }
    };
    look("while it runs");
    let log = host.end();
    look("after it has ended");
    assert!(!log.contains(TOKEN) && !log.contains(SECRET), "{log}");
}
