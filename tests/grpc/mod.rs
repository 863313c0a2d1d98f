//! Dapr's gRPC, in both directions: clients made from its contracts call the host, and the host calls applications made
//! from them. Statuses, messages and details are daprd's, as its sources have them.

mod api;
pub mod app;
mod application;
pub mod client;
mod limits;
