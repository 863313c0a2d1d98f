//! Remembers messages in a runtime's key-value store, in front of another handler: a message that comes again gets the
//! answer that it got, and another message under its identifier is refused.

#[cfg(target_family = "wasm")]
mod component;
pub mod memory;
