//! Runs the DingTalk binding component.

pub mod cli;
pub mod simulator;
