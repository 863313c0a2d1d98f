//! Runs the DingTalk binding component.

pub mod resources;
