//! Runs the DingTalk binding component.

pub mod egress;
pub mod sandbox;
