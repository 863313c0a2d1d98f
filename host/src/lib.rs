//! Runs the DingTalk binding component: the sandbox for one call, the way out of it, Dapr's bindings API on
//! top, and a simulator of DingTalk to try it all without an account.

pub mod api;
pub mod app;
pub mod bindings;
pub mod cli;
pub mod clock;
pub mod egress;
pub mod event;
pub(crate) mod files;
pub mod inbox;
pub(crate) mod ingress;
pub mod input;
pub mod quiet;
pub mod resources;
pub mod sandbox;
pub mod simulator;
