//! Connections: few, each for one transaction at a time, and each given up when anything was wrong with it.

use std::error::Error as _;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType,
};
use tokio_postgres::error::SqlState;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::{CONNECT, Target};
use crate::egress;

/// Connections of one host. Some callbacks share one with others: a transaction takes as long as a disk or two round trips.
const CONNECTIONS: usize = 12;

/// For whoever waits until a connection is free.
const WAIT: Duration = Duration::from_secs(5);

/// For everything that is done with one connection before it is given up. Above the server's own limits, which say what was
/// wrong.
pub(super) const PATIENCE: Duration = Duration::from_secs(12);

/// What every connection begins with. A server that is busy must say so before whoever waits has gone, a lock that is not
/// to be had must not keep others waiting, and a host that is gone must not keep its locks. Compiling a statement takes ten
/// times as long as any of these runs.
const SETTINGS: &str = "SET statement_timeout = '8s'; SET lock_timeout = '4s';
     SET idle_in_transaction_session_timeout = '10s'; SET client_min_messages = 'warning'; SET jit = off;
     SET default_transaction_isolation = 'read committed'";

/// What was wrong, as far as it makes a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Two transactions were in each other's way: the same one again may succeed.
    Conflict(String),
    /// Anything else. Begins with "cannot", and names neither user nor password.
    Other(String),
}

impl Fault {
    pub(super) fn into_reason(self) -> String {
        match self {
            Self::Conflict(reason) | Self::Other(reason) => reason,
        }
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        let is_conflict = error
            .code()
            .is_some_and(|code| [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE].contains(code));
        let reason = explain(&error);
        if is_conflict { Self::Conflict(reason) } else { Self::Other(reason) }
    }
}

/// One line. What the server says is shown, except where it may repeat a value: its details and hints.
fn explain(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        let (code, message) = (said.code().code(), said.message());
        return match said.code() {
            &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                // Its message has the user's name.
                format!("does not let this user in ({code}); check user, password and the server's pg_hba.conf")
            }
            &SqlState::TOO_MANY_CONNECTIONS => {
                // So has this one.
                format!("has no connection left ({code}); allow it more, or this host's user")
            }
            &SqlState::INVALID_CATALOG_NAME => format!("is not there ({code}); create it, or name another one"),
            &SqlState::INSUFFICIENT_PRIVILEGE => {
                format!("does not allow this user what is needed ({code}: {}); grant it", one_line(message))
            }
            &SqlState::READ_ONLY_SQL_TRANSACTION => {
                format!("is read-only ({code}); name the primary, or add target_session_attrs=read-write to the URL")
            }
            _ => format!("says: {} ({code})", one_line(message)),
        };
    }
    let mut reason = format!("cannot be used: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !reason.contains(&text) {
            reason.push_str(": ");
            reason.push_str(&text);
        }
        source = cause.source();
    }
    if reason.contains("invalid peer certificate") {
        reason.push_str("; name its authority's file with SSL_CERT_FILE, or set sslmode=disable in the URL");
    }
    one_line(&reason)
}

/// Text of somebody else's for one line.
fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// The pool, from which nothing is taken yet. The error says what of the machine's certificates cannot be read.
pub(super) fn new(target: &Target) -> Result<Pool, String> {
    over(target, egress::trusted()?)
}

/// As [`new`], trusting these authorities.
pub(super) fn over(target: &Target, roots: Arc<rustls::RootCertStore>) -> Result<Pool, String> {
    let tls = MakeRustlsConnect::new(egress::trusting(roots));
    let manager = Manager::from_config(
        target.config.clone(),
        tls,
        // Whether a connection is closed is known without asking.
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    let settings = match target.schema {
        Some(schema) => format!("{SETTINGS}; SET search_path = {schema}"),
        None => SETTINGS.to_owned(),
    };
    let begin = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
        let settings = settings.clone();
        Box::pin(async move { client.batch_execute(&settings).await.map_err(HookError::Backend) })
    });
    let pool = Pool::builder(manager)
        .max_size(CONNECTIONS)
        .wait_timeout(Some(WAIT))
        .create_timeout(Some(CONNECT))
        .recycle_timeout(Some(CONNECT))
        .post_create(begin)
        .runtime(Runtime::Tokio1)
        .build();
    pool.map_err(|error| format!("cannot be used: {error}"))
}

/// A connection while it is used. Dropped before [`Session::done`], it is closed: nobody knows in the middle of what it is.
pub(super) struct Session(Option<Object>);

impl Session {
    pub(super) async fn take(pool: &Pool) -> Result<Self, Fault> {
        let object = pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => error.into(),
            PoolError::Timeout(TimeoutType::Wait) => {
                Fault::Other(format!("has all {CONNECTIONS} connections of this host busy for {} s", WAIT.as_secs()))
            }
            PoolError::Timeout(_) => Fault::Other(format!("does not answer within {} s", CONNECT.as_secs())),
            error => Fault::Other(format!("cannot be used: {error}")),
        })?;
        Ok(Self(Some(object)))
    }

    /// What was begun has ended well, and others may have the connection.
    pub(super) fn done(mut self) {
        drop(self.0.take());
    }
}

impl Deref for Session {
    type Target = Object;

    #[expect(clippy::expect_used, reason = "taken by `done` alone, which takes the session")]
    fn deref(&self) -> &Object {
        self.0.as_ref().expect("in use")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::postgres::Address;

    #[tokio::test]
    async fn what_cannot_be_reached_says_so_and_nothing_of_the_password() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let target = Address::new(&format!("postgres://us3r:S3CR3T@127.0.0.1:{port}/d")).unwrap().target().unwrap();
        let fault = Session::take(&new(&target).unwrap()).await.err().unwrap().into_reason();
        assert!(fault.contains("cannot be used") && fault.contains("refused"), "{fault}");
        assert!(!fault.contains("S3CR3T") && !fault.contains("us3r"), "{fault}");
    }

    #[tokio::test]
    async fn who_says_nothing_is_not_waited_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Address::new(&format!("postgres://u@127.0.0.1:{port}/d")).unwrap().target().unwrap();
        let fault = Session::take(&new(&target).unwrap()).await.err().unwrap().into_reason();
        assert!(fault.contains("does not answer within 5 s"), "{fault}");
    }
}
