//! Dapr's gRPC contracts, as far as bindings need them, generated from `proto/`. Those files have the names, types and
//! field numbers of Dapr 1.18 and nothing that is not used here: a field that they leave out is skipped, a method
//! answered UNIMPLEMENTED.

#![allow(missing_docs, unreachable_pub, reason = "generated; proto/ explains what needs to be explained")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "generated")]

/// What a pluggable component serves, over a Unix socket.
pub mod components {
    tonic::include_proto!("dapr.proto.components.v1");
}

/// What a sidecar serves its application, and what the application serves the sidecar.
pub mod runtime {
    tonic::include_proto!("dapr.proto.runtime.v1");
}

/// All of it as a `FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
