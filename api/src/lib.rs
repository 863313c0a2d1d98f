//! Between clients and the binding: which request, over HTTP or gRPC, is which operation, and which answer says what
//! became of it. Pure functions over bytes, so that the host and the gateway component give the same answers; sockets,
//! clocks and the binding itself are theirs.
//!
//! What a client can see follows daprd to the letter; deliberate differences are listed in docs/dapr.md.

#![allow(clippy::result_large_err, reason = "an answer is made once for a request, and moved to its end")]

pub mod answer;
pub mod callback;
pub mod caller;
pub mod delivery;
pub mod grpc;
pub mod invoke;
pub mod limits;
pub mod metadata;
pub mod problem;
pub mod query;
pub mod request;
pub mod route;
pub mod status;
pub mod trace;
pub mod unread;

pub use answer::Answer;
pub use problem::Problem;
