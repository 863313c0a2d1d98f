//! The tables, who makes them, and how those of an older host get what is missing.

use tokio_postgres::types::Type;

use super::pool::{Fault, Session};
use crate::queue::QueueError;

/// The steps that make the tables; `version` says how many there have been. Keys are hashes where strangers choose what is
/// known by them: PostgreSQL refuses index entries of more than 2.7 kB. Names and keys are compared by their bytes, so that
/// no update of the system's collations spoils an index.
const STEPS: [&str; 2] = [
    "
-- The clock of everything here, in milliseconds since the Unix epoch.
CREATE FUNCTION now_ms() RETURNS int8 LANGUAGE sql VOLATILE
    AS 'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8';

CREATE TABLE events (
    seq int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- 0: inbox; 1: outbox.
    side int2 NOT NULL,
    binding text COLLATE \"C\" NOT NULL,
    msg_id bytea,
    -- SHA-256 of msg_id.
    msg_key bytea,
    -- Empty for events without a conversation, and after delivery.
    conversation bytea NOT NULL,
    -- SHA-256 of the conversation; empty after delivery.
    lane bytea NOT NULL,
    -- What comes first within a conversation, whatever came before it: 0 is usual.
    rank int8 NOT NULL,
    accepted_at int8 NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'dead', 'delivered')),
    attempts int8 NOT NULL DEFAULT 0,
    last_error text,
    finished_at int8,
    -- When the operator put it back; its age counts from then.
    retried_at int8,
    -- After that it is not delivered any more; NULL if its age alone decides.
    expires_at int8,
    reply bytea,
    metadata text NOT NULL,
    trace text NOT NULL,
    data bytea NOT NULL,
    -- Whether somebody may have seen it; the operator's putting it back does not change that.
    tried bool NOT NULL DEFAULT false,
    -- Of a message of the outbox that is dead: nobody has been told, and until when a host has it to tell.
    untold bool NOT NULL DEFAULT false,
    telling_until int8 NOT NULL DEFAULT 0,
    -- SHA-256 of the data, which outlives them.
    digest bytea NOT NULL,
    -- What it takes, about.
    size int8 NOT NULL
);
CREATE UNIQUE INDEX events_msg_key ON events (side, binding, msg_key) WHERE msg_key IS NOT NULL;
CREATE INDEX events_pending ON events (side, binding, lane, rank DESC, seq) WHERE state = 'pending';
CREATE INDEX events_dead ON events (side, seq) WHERE state = 'dead';
CREATE INDEX events_delivered ON events (side, finished_at) WHERE state = 'delivered';
CREATE INDEX events_waiting ON events (side, (coalesce(retried_at, accepted_at))) WHERE state = 'pending';
CREATE INDEX events_expiring ON events (side, expires_at) WHERE state = 'pending' AND expires_at IS NOT NULL;
CREATE INDEX events_size ON events (side, binding) INCLUDE (size);

-- Conversations with pending events. Whoever adds an event, or changes a pending one, has the lane's lock.
CREATE INDEX events_untold ON events (side, seq) WHERE state = 'dead' AND untold;
CREATE TABLE lanes (
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    side int2 NOT NULL,
    binding text COLLATE \"C\" NOT NULL,
    lane bytea NOT NULL,
    conversation bytea NOT NULL,
    -- When the first event may be tried.
    due int8 NOT NULL,
    -- Whether it waits only because whoever takes it was not there.
    suffers bool NOT NULL DEFAULT false,
    rank int8 NOT NULL,
    -- The host that delivers its first event, until then.
    owner uuid,
    leased_until int8 NOT NULL DEFAULT 0,
    UNIQUE (side, binding, lane)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX lanes_due ON lanes (side, binding, rank, due, id);
CREATE INDEX lanes_suffering ON lanes (side, due) WHERE suffers;

-- Those that share the database.
CREATE TABLE hosts (
    id uuid PRIMARY KEY,
    leased_until int8 NOT NULL
);
-- Each robot's lock. Its key is SHA-256 of its address, which has its token in it.
CREATE TABLE robots (
    robot bytea PRIMARY KEY,
    -- From then on it has no meaning.
    gone_at int8 NOT NULL,
    -- Until when DingTalk takes nothing from it, and why.
    shut_until int8 NOT NULL DEFAULT 0,
    closing text,
    -- For how long after its end a post counts for any binding of any host.
    counts_for int8 NOT NULL DEFAULT 0
);
CREATE INDEX robots_gone ON robots (gone_at);
-- Each message that may count towards a robot's rate.
CREATE TABLE posts (
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    robot bytea NOT NULL,
    host uuid NOT NULL,
    begun_at int8 NOT NULL,
    -- NULL while it is under way, or if nobody has seen its end.
    ended_at int8,
    counts_for int8 NOT NULL,
    -- From then on it has no meaning. NULL while its end is not known.
    gone_at int8
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX posts_robot ON posts (robot, ended_at);
CREATE INDEX posts_open ON posts (id) WHERE ended_at IS NULL;
CREATE INDEX posts_gone ON posts (gone_at);
-- Messages of a month that DingTalk counts towards an organisation's allowance.
CREATE TABLE quotas (
    name text COLLATE \"C\" NOT NULL,
    month text COLLATE \"C\" NOT NULL,
    used int8 NOT NULL,
    PRIMARY KEY (name, month)
) WITH (fillfactor = 50);
",
    "
-- The event that says what came before this conversation's: as long as that one is pending, it waits.
ALTER TABLE lanes ADD COLUMN behind int8;
CREATE INDEX lanes_behind ON lanes (behind) WHERE behind IS NOT NULL;
",
];

/// A schema that has had every step. That of a newer host has had more.
pub(super) const VERSION: i64 = STEPS.len() as i64;

/// What hosts lock that start at the same time, together with a number of the schema's name.
const LOCK: i32 = 0x0064_696e;

/// Why there are no tables that this host could use.
pub(super) enum Unprepared {
    Fault(Fault),
    /// What is wrong and what to do; follows the database's name.
    Refused(String),
    Newer(i64),
}

impl From<Fault> for Unprepared {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<tokio_postgres::Error> for Unprepared {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl Unprepared {
    pub(super) fn into_error(self, name: &str) -> QueueError {
        let name = name.to_owned();
        match self {
            Self::Fault(fault) => QueueError::Unusable { name, reason: fault.into_reason() },
            Self::Refused(reason) => QueueError::Unusable { name, reason },
            Self::Newer(found) => QueueError::Unusable {
                name,
                reason: format!(
                    "has schema {found}, and this host knows {VERSION}; use the host that wrote it, or a newer one"
                ),
            },
        }
    }
}

/// Makes what is not there. `schema` is made too; without one, the search path has the one to use.
pub(super) async fn prepare(session: &Session, schema: Option<&str>) -> Result<(), Unprepared> {
    check(session).await?;
    session.batch_execute("BEGIN").await?;
    // Others may be at it: that takes longer than any other lock is waited for.
    session.batch_execute("SET LOCAL lock_timeout = '30s'; SET LOCAL statement_timeout = '40s'").await?;
    let name = match schema {
        Some(schema) => schema.to_owned(),
        None => {
            let current: Option<String> = session.query_one("SELECT current_schema()::text", &[]).await?.try_get(0)?;
            current.ok_or_else(|| {
                Unprepared::Refused("has no schema of the URL's search_path; create it, or name another one".into())
            })?
        }
    };
    session.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", &[&LOCK, &name]).await?;
    if schema.is_some() {
        let there = session.query_one("SELECT to_regnamespace($1) IS NOT NULL", &[&name]).await?;
        if !there.try_get::<_, bool>(0)? {
            session.batch_execute(&format!("CREATE SCHEMA {name}")).await?;
        }
    }
    // In this schema and in no other of the search path: what is read must be what is made.
    let sql = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'dingtalk_version')";
    let known: bool = session.query_one(sql, &[&name]).await?.try_get(0)?;
    let found: i64 = match known {
        true => session.query_one("SELECT version FROM dingtalk_version", &[]).await?.try_get(0)?,
        false => 0,
    };
    if !(0..=VERSION).contains(&found) {
        return Err(Unprepared::Newer(found));
    }
    if found < VERSION {
        if !known {
            session
                .batch_execute(
                    "CREATE TABLE dingtalk_version (version int8 NOT NULL); INSERT INTO dingtalk_version VALUES (0)",
                )
                .await?;
        }
        for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
            session.batch_execute(step).await?;
        }
        let update = session.prepare_typed("UPDATE dingtalk_version SET version = $1", &[Type::INT8]).await?;
        session.execute(&update, &[&VERSION]).await?;
    }
    session.batch_execute("COMMIT").await?;
    Ok(())
}

/// Whether it is tables that this host may change. It must be there before: the operator looks, and makes nothing.
pub(super) async fn look(session: &Session) -> Result<(), Unprepared> {
    check(session).await?;
    let there = session.query_one("SELECT to_regclass('dingtalk_version') IS NOT NULL", &[]).await?;
    if !there.try_get::<_, bool>(0)? {
        return Err(Unprepared::Refused(
            "has no tables of this host; name the database that it was given with --store".into(),
        ));
    }
    let found: i64 = session.query_one("SELECT version FROM dingtalk_version", &[]).await?.try_get(0)?;
    match found {
        VERSION => Ok(()),
        found if found > VERSION => Err(Unprepared::Newer(found)),
        _ => Err(Unprepared::Refused(
            "was written by an older host; start this host with it once, then ask again".into(),
        )),
    }
}

/// Whether the server keeps what it has said that it keeps.
async fn check(session: &Session) -> Result<(), Unprepared> {
    let sql = "SELECT current_setting('server_version_num')::int4, current_setting('synchronous_commit'), current_setting('fsync'),
                   pg_is_in_recovery(), getdatabaseencoding()::text";
    let row = session.query_one(sql, &[]).await?;
    let (version, commit, fsync): (i32, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if version < OLDEST {
        return Err(Unprepared::Refused(format!("is of PostgreSQL {}; use 12 or newer", version / 10_000)));
    }
    if row.try_get(3)? {
        return Err(Unprepared::Refused(
            "is a standby; name the primary, or add target_session_attrs=read-write to the URL".into(),
        ));
    }
    if row.try_get::<_, String>(4)? != "UTF8" {
        return Err(Unprepared::Refused("is not encoded in UTF8; create one that is".into()));
    }
    if commit == "off" {
        return Err(Unprepared::Refused(
            "has synchronous_commit = off, so that it could lose what was acknowledged; set it to on for this user (ALTER \
             ROLE … SET synchronous_commit = on)"
                .into(),
        ));
    }
    if fsync == "off" {
        tracing::warn!(
            "--store: the database's server has fsync = off; it loses what was acknowledged when its machine fails"
        );
    }
    Ok(())
}

/// The oldest server with everything that is used here.
const OLDEST: i32 = 12_00_00;
