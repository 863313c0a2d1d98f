//! Whoever reaches one of our ports: what a connection, a request and a body may cost, one by one and together.
//! What is served there is not its business.

pub(crate) mod body;
pub(crate) mod connection;
mod gzip;
pub(crate) mod listeners;
pub(crate) mod port;
pub(crate) mod stream;
