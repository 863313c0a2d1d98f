//! The `dingtalk-host` command.

fn main() {}
