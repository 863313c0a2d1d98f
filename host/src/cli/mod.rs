//! The subcommands of `dingtalk-host`.

pub mod simulate;
