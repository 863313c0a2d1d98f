//! Runs the DingTalk binding component: the sandbox for one call, the way out, and Dapr's bindings API on top.

pub mod api;
pub mod bindings;
pub mod egress;
pub mod sandbox;
