//! Runs the DingTalk binding component: the sandbox for one call, the way out of it, Dapr's bindings API on
//! top, and a simulator of DingTalk to try it all without an account.
//!
//! The program `dingtalk-host` is one use of this library. Another is a program that sends as a robot, or takes what
//! people say to it, and wants the sandbox without a second process:
//!
//! - [`Sandbox`]: the compiled component and what all calls share, within [`Limits`]. Made once.
//! - [`Tenant`]: one robot. [`Settings`] are its properties, read by the rules of the component itself; [`Egress`] is its
//!   way out, at addresses that a [`Policy`] lets be reached.
//! - [`Sandbox::invoke`] performs one operation in an instance that knows of no other call: a [`Request`], and a [`Response`] or a
//!   [`CallError`]. [`Sandbox::receive`] does the same for a [`Callback`] of DingTalk, whose message goes to a [`Handler`].
//!
//! Whoever wants more than that finds it a module higher: [`bindings`] by name, [`input`] with one delivery for the
//! copies of a message, [`queue`], [`app`], Dapr's [`api`]. A tokio runtime must run. What is logged is logged with
//! `tracing`.
//!
//! The whole of it, as in `examples/embed.rs`:
#![doc = concat!("```no_run\n", include_str!("../../examples/embed.rs"), "```")]

pub mod api;
pub mod app;
pub mod bindings;
#[doc(hidden)]
pub mod cli;
pub mod clock;
pub mod egress;
pub mod event;
pub(crate) mod fields;
pub(crate) mod files;
pub mod fit;
pub mod gate;
pub(crate) mod ingress;
pub mod input;
pub mod metrics;
mod parallel;
#[cfg(unix)]
pub mod pluggable;
pub mod queue;
#[doc(hidden)]
pub mod quiet;
pub mod resiliency;
pub mod resources;
pub mod sandbox;
mod shown;
pub mod simulator;
pub mod spans;

pub use dingtalk_binding::settings::Settings;
pub use dingtalk_component::COMPONENT;

pub use egress::{Egress, Network, Policy, Proxies};
pub use sandbox::{CallError, Callback, Handler, Limits, Reply, Request, Response, Sandbox, Tenant};
