//! The promises of this project, one file each, kept by the real component in the real host over real
//! sockets. Where DingTalk would be, there is the simulator, which enforces DingTalk's rules.

// A test reports by panicking, and so do its helpers; and nothing of a test is reachable from outside.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod api;
mod both;
mod callbacks;
mod canary;
mod cli;
mod configuration;
mod contract;
mod dead_letters;
mod documents;
mod egress;
mod embed;
mod errors;
mod grpc;
mod handlers;
mod host;
mod hosts;
mod inbox;
mod limits;
mod messages;
mod metrics;
mod outbox;
#[cfg(unix)]
mod pluggable;
mod reload;
mod replays;
mod resiliency;
mod retries;
mod robots;
mod serve;
mod signature;
mod spans;
#[cfg(unix)]
mod store;
mod strangers;
mod support;
mod tenants;
