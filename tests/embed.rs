//! The host as a library, as its example shows it.

use std::path::Path;
use std::process::Command;

use crate::support::{Robot, SECRET, finish, stderr, stdout};

#[test]
fn the_example_sends_one_message_and_explains_what_became_of_another() {
    let robot = Robot::start();
    let program = Path::new(env!("CARGO_BIN_EXE_dingtalk-host")).with_file_name("examples").join("embed");
    let sent = |secret: &str| {
        let mut command = Command::new(&program);
        command.env_clear().args([&robot.url(), secret, "Hi"]);
        finish(command, b"")
    };
    assert_eq!(stdout(&sent(SECRET)), "statusCode: 200\nerrcode: 0\nerrmsg: ok\n");
    assert_eq!(robot.messages().len(), 1);
    let refused = sent("SECwrong");
    assert!(!refused.status.success() && stderr(&refused).contains("310000"), "{}", stderr(&refused));
    assert!(!stderr(&refused).contains("SECwrong"), "{}", stderr(&refused));
    assert_eq!(robot.messages().len(), 1);
}
