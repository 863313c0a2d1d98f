//! The tables, and how an older store gets them.

/// The steps that make the tables. A store's `user_version` says how many it has had; each adds to what is there
/// and rewrites no row, so that a step needs as good as no space and no time.
pub(super) const STEPS: [&str; 4] = [
    "
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    binding TEXT NOT NULL,
    msg_id TEXT,
    -- Empty for events without a conversation, and after delivery.
    conversation TEXT NOT NULL,
    accepted_at INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'dead', 'delivered')),
    attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    finished_at INTEGER,
    reply BLOB,
    metadata TEXT NOT NULL,
    trace TEXT NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX events_msg_id ON events (binding, msg_id) WHERE msg_id IS NOT NULL;
CREATE INDEX events_pending ON events (binding, conversation, seq) WHERE state = 'pending';
CREATE INDEX events_dead ON events (seq) WHERE state = 'dead';
CREATE INDEX events_delivered ON events (finished_at) WHERE state = 'delivered';
CREATE TABLE lanes (
    id INTEGER PRIMARY KEY,
    binding TEXT NOT NULL,
    conversation TEXT NOT NULL,
    -- When the first event may be tried.
    due INTEGER NOT NULL,
    -- Whether it waits only because the application was not there.
    suffers INTEGER NOT NULL DEFAULT 0,
    UNIQUE (binding, conversation)
);
CREATE INDEX lanes_due ON lanes (binding, due);
",
    "
-- SHA-256 of the data, which outlives them; NULL in rows that are older than this column.
ALTER TABLE events ADD COLUMN digest BLOB;
-- When the operator put it back; its age counts from then.
ALTER TABLE events ADD COLUMN retried_at INTEGER;
CREATE INDEX events_waiting ON events (ifnull(retried_at, accepted_at)) WHERE state = 'pending';
-- Holds pages while the store grows, and is empty otherwise.
CREATE TABLE growth (data BLOB NOT NULL);
",
    "
-- What comes first within a conversation, whatever came before it, and of conversations: 0 is usual.
ALTER TABLE events ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lanes ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;
-- After that it is not delivered any more; NULL if its age alone decides.
ALTER TABLE events ADD COLUMN expires_at INTEGER;
-- Whether somebody may have seen it; the operator's putting it back does not change that.
ALTER TABLE events ADD COLUMN tried INTEGER NOT NULL DEFAULT 0;
",
    "
-- The event that says what came before this conversation's: as long as that one is pending, it waits.
ALTER TABLE lanes ADD COLUMN behind INTEGER;
CREATE INDEX lanes_behind ON lanes (behind) WHERE behind IS NOT NULL;
",
];

/// What an outbox has beside that, from its beginning. An inbox has no ranks and no robots, and would have to read all of
/// what it has for these indexes.
pub(super) const OUTBOX: &str = "
CREATE INDEX events_ranked ON events (binding, conversation, rank DESC, seq) WHERE state = 'pending';
CREATE INDEX events_expiring ON events (expires_at) WHERE state = 'pending' AND expires_at IS NOT NULL;
CREATE INDEX lanes_ranked ON lanes (binding, rank DESC, due, id);
-- Whether nobody has been told yet that it is dead.
ALTER TABLE events ADD COLUMN untold INTEGER NOT NULL DEFAULT 0;
CREATE INDEX events_untold ON events (seq, binding) WHERE state = 'dead' AND untold = 1;
-- Bytes of each binding's messages, and what stands around them; by what is stored, whoever changes it.
CREATE TABLE loads (
    binding TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL
);
CREATE TRIGGER events_stored AFTER INSERT ON events BEGIN
    INSERT INTO loads (binding, bytes) VALUES (new.binding, length(new.data) + 512)
        ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER events_changed AFTER UPDATE OF data ON events BEGIN
    UPDATE loads SET bytes = bytes + length(new.data) - length(old.data) WHERE binding = new.binding;
END;
CREATE TRIGGER events_removed AFTER DELETE ON events BEGIN
    UPDATE loads SET bytes = bytes - length(old.data) - 512 WHERE binding = old.binding;
    DELETE FROM loads WHERE binding = old.binding AND bytes <= 0;
END;
-- Each message that may count towards a robot's rate: what the next process must know of the last minute.
CREATE TABLE posts (
    id INTEGER PRIMARY KEY,
    -- SHA-256 of the robot's address, which has its token in it.
    robot BLOB NOT NULL,
    -- NULL while it is under way, or if nobody has seen its end.
    ended_at INTEGER,
    -- For how many milliseconds after its end it may count.
    counts_for INTEGER NOT NULL,
    -- From then on it has no meaning.
    gone_at INTEGER NOT NULL
);
CREATE INDEX posts_gone ON posts (gone_at);
-- Until when DingTalk takes nothing from a robot.
CREATE TABLE closings (
    robot BLOB PRIMARY KEY,
    until INTEGER NOT NULL,
    closing TEXT NOT NULL
);
-- Messages of a month that DingTalk counts towards an organisation's allowance.
CREATE TABLE quotas (
    name TEXT NOT NULL,
    month TEXT NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (name, month)
);
";

/// A store that has had every step. A file of a newer host has had more.
pub(super) const VERSION: i64 = STEPS.len() as i64;
