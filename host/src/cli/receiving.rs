//! Flags for what comes in, and for what waits: callbacks, inbox and outbox. What `serve` and `pluggable` share.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dingtalk_binding::duration;

use super::quantity;
use crate::api::Surface;
use crate::clock;
use crate::egress::MAX_REQUEST_BODY;
use crate::queue::postgres::Database;
use crate::queue::{self, Inbox, Outbox, QueueError};

/// Where DingTalk's callbacks come in.
#[derive(Debug, Clone, Args)]
pub(super) struct CallbackArgs {
    /// Port for DingTalk's callbacks and health checks alone, to be reached from outside; 0 takes a free one.
    #[arg(long, value_name = "PORT")]
    callback_port: Option<u16>,
    /// Addresses of --callback-port, separated by commas.
    #[arg(long, value_name = "ADDRESSES", default_value = "127.0.0.1", value_delimiter = ',', value_parser = parse_address)]
    callback_listen_addresses: Vec<IpAddr>,
    /// Time in which a callback is answered. DingTalk documents 2.5s for what it pushes.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_callback_timeout)]
    pub(super) callback_timeout: Duration,
}

impl CallbackArgs {
    /// What to listen on, if anything.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (SocketAddr, Surface)> {
        let port = self.callback_port;
        self.callback_listen_addresses.iter().filter_map(move |&ip| Some(((ip, port?).into(), Surface::Callbacks)))
    }
}

/// Where messages wait.
#[derive(Debug, Clone, Args)]
pub(super) struct InboxArgs {
    /// Directory in which messages are kept until the application has taken them. With it, a callback is
    /// acknowledged once its message is on disk; a reply that takes longer goes to the message's session.
    #[arg(long, value_name = "DIRECTORY", group = "inbox_kept")]
    inbox: Option<PathBuf>,
    /// How much the inbox may take on disk, at least 8Mi. Beyond it, messages are not acknowledged.
    #[arg(long, value_name = "SIZE", default_value = "256Mi", value_parser = parse_queue_size, requires = "inbox_kept")]
    inbox_max_size: u64,
    /// How long the inbox tries to deliver a message. Then it is dead: see `inbox list`.
    #[arg(long, value_name = "DURATION", default_value = "72h", value_parser = parse_queue_age, requires = "inbox_kept")]
    inbox_max_age: Duration,
}

impl InboxArgs {
    /// The inbox, if there is to be one.
    pub(super) fn open(&self) -> Result<Option<Inbox>, QueueError> {
        self.inbox.as_ref().map(|dir| Inbox::open(dir, clock::system(), self.limits())).transpose()
    }

    /// The one in a database.
    pub(super) fn open_in(&self, database: &Database) -> Inbox {
        Inbox::open_in(database, clock::system(), self.limits())
    }

    fn limits(&self) -> queue::Limits {
        queue::Limits { max_size: self.inbox_max_size, max_age: self.inbox_max_age }
    }
}

/// Where messages wait for their robots.
#[derive(Debug, Clone, Args)]
pub(super) struct OutboxArgs {
    /// Directory in which messages are kept until DingTalk has taken them, for bindings with overflow: queue and calls
    /// with metadata delivery: queued. With it, robots' limits hold over restarts.
    #[arg(long, value_name = "DIRECTORY", group = "outbox_kept")]
    outbox: Option<PathBuf>,
    /// How much the outbox may take on disk, at least 8Mi. Beyond it, messages are not queued.
    #[arg(long, value_name = "SIZE", default_value = "256Mi", value_parser = parse_queue_size, requires = "outbox_kept")]
    outbox_max_size: u64,
    /// How long the outbox tries to send a message. Then it is dead: see `outbox list`.
    #[arg(long, value_name = "DURATION", default_value = "72h", value_parser = parse_queue_age, requires = "outbox_kept")]
    outbox_max_age: Duration,
}

impl OutboxArgs {
    /// The outbox, if there is to be one: that in the database, where there is one.
    pub(super) fn open(&self, database: Option<&Database>) -> Result<Option<Outbox>, QueueError> {
        let limits = queue::Limits { max_size: self.outbox_max_size, max_age: self.outbox_max_age };
        match database {
            Some(database) => Ok(Some(Outbox::open_in(database, clock::system(), limits))),
            None => self.outbox.as_ref().map(|dir| Outbox::open(dir, clock::system(), limits)).transpose(),
        }
    }
}

/// Above a minute, whoever waits has gone.
fn parse_callback_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration::parse(text)?;
    if timeout < Duration::from_millis(1) || timeout > Duration::from_secs(60) {
        return Err(format!("{text} is not between 1ms and 1m"));
    }
    Ok(timeout)
}

pub(super) fn parse_body_size(text: &str) -> Result<usize, String> {
    let size = quantity::parse(text)?;
    if size > MAX_REQUEST_BODY {
        return Err(format!("no binding sends more than {}Mi", MAX_REQUEST_BODY >> 20));
    }
    Ok(size)
}

fn parse_queue_size(text: &str) -> Result<u64, String> {
    let size = quantity::parse(text)? as u64;
    if size < queue::Limits::LEAST_SIZE {
        return Err(format!("it needs {}Mi for itself", queue::Limits::LEAST_SIZE >> 20));
    }
    Ok(size)
}

/// Below a minute, an application that restarts, or a network that is away, would lose messages to the list of dead ones.
fn parse_queue_age(text: &str) -> Result<Duration, String> {
    let age = duration::parse(text)?;
    if age < Duration::from_secs(60) {
        return Err(format!("{text} is less than 1m"));
    }
    Ok(age)
}

/// As daprd takes them: IPv6 with or without brackets.
pub(super) fn parse_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
    bare.parse().map_err(|_| format!("{text:?} is not an IP address; write for example 127.0.0.1 or [::1]"))
}
