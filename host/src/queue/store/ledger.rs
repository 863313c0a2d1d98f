//! Posts, closings and months, as the next process needs them: this one remembers by itself.

use std::collections::BTreeMap;

use rusqlite::params;

use super::{Store, read, stored};
use crate::event::Digest;
use crate::gate::LATE_MS;
use crate::gate::ledger::{Claim, Claimed, Intent, Known, Unclaimed};
use crate::gate::lesson::{Closing, Kind, Lesson};
use crate::gate::quota;
use crate::queue::QueueError;

/// For how long a post is kept whose end nobody has told: no call takes longer.
const SLACK_MS: u64 = 11 * 60 * 1_000;

/// What lies further ahead than that was written by a clock that went wrong: no window is longer, and no closing.
const FAR_MS: u64 = 2 * 60 * 60 * 1_000;

/// Months that are kept of an allowance, for whoever wants to know.
const MONTHS: usize = 12;

/// Posts without a meaning that are removed with each that is added: more than one, so that they become fewer.
const REMOVED_AT_ONCE: usize = 4;

impl Store {
    /// Notes posts. The inner error says that there is none, and why.
    pub(in crate::queue) fn claim(&self, intent: &Intent, now: u64) -> Result<Result<Claimed, Unclaimed>, QueueError> {
        let month = quota::month(now);
        let mut used = None;
        if let Some(quota) = &intent.quota {
            let before = self.used(quota.name(), &month)?;
            if before == 0 {
                // The newest, whatever a clock that was wrong has made of them.
                self.execute(
                    &format!(
                        "DELETE FROM quotas WHERE name = ?1 AND month NOT IN
                             (SELECT month FROM quotas WHERE name = ?1 ORDER BY month DESC LIMIT {MONTHS})"
                    ),
                    [quota.name()],
                )?;
            }
            if !quota.allows(before, intent.messages, intent.is_urgent) {
                return Ok(Err(Unclaimed::Spent(before, quota::rest_of_month(now))));
            }
            self.count(quota.name(), &month, i64::from(intent.messages))?;
            used = Some(before + u64::from(intent.messages));
        }
        self.execute(
            &format!(
                "DELETE FROM posts WHERE id IN
                     (SELECT id FROM posts WHERE gone_at <= ?1 ORDER BY gone_at LIMIT {REMOVED_AT_ONCE})"
            ),
            [stored(now)],
        )?;
        if let Some(seq) = intent.queued {
            self.execute("UPDATE events SET tried = 1 WHERE seq = ?1 AND tried = 0", [seq])?;
        }
        let gone_at = now.saturating_add(u64::from(intent.counts_for)).saturating_add(SLACK_MS);
        let mut posts = Vec::with_capacity(usize::from(intent.messages));
        for _ in 0..intent.messages {
            self.execute(
                "INSERT INTO posts (robot, counts_for, gone_at) VALUES (?1, ?2, ?3)",
                params![intent.robot.as_slice(), intent.counts_for, stored(gone_at)],
            )?;
            let counted = intent.quota.as_ref().map(|quota| (quota.name().to_owned(), month.clone()));
            posts.push(Claim { id: self.connection.last_insert_rowid(), robot: intent.robot, counted });
        }
        Ok(Ok(Claimed { posts, used }))
    }

    /// Notes what one of them came to.
    pub(in crate::queue) fn end_post(&self, claim: &Claim, lesson: &Lesson, now: u64) -> Result<(), QueueError> {
        let ended = match lesson {
            Lesson::Unsent => {
                self.execute("DELETE FROM posts WHERE id = ?1", [claim.id])?;
                None
            }
            Lesson::Unknown => Some(now.saturating_add(LATE_MS)),
            Lesson::Counted | Lesson::Shut(_) => Some(now),
        };
        if let Some(ended) = ended {
            self.execute(
                "UPDATE posts SET ended_at = ?2, gone_at = ?2 + counts_for WHERE id = ?1",
                params![claim.id, stored(ended)],
            )?;
        }
        // DingTalk counts no message that it refuses for another reason than its content.
        if let (Lesson::Unsent | Lesson::Shut(_), Some((name, month))) = (lesson, &claim.counted) {
            self.count(name, month, -1)?;
        }
        if let Lesson::Shut(closing) = lesson
            && closing.kind != Kind::Configuration
        {
            let pause = u64::try_from(closing.pause.as_millis()).unwrap_or(u64::MAX);
            self.execute(
                "INSERT INTO closings (robot, until, closing) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET until = excluded.until, closing = excluded.closing
                     WHERE excluded.until > until OR until > ?4",
                params![
                    claim.robot.as_slice(),
                    stored(now.saturating_add(pause)),
                    closing.to_text(),
                    stored(now.saturating_add(FAR_MS))
                ],
            )?;
        }
        Ok(())
    }

    fn used(&self, name: &str, month: &str) -> Result<u64, QueueError> {
        let used =
            self.first("SELECT used FROM quotas WHERE name = ?1 AND month = ?2", [name, month], |row| row.get(0))?;
        Ok(used.map_or(0, read))
    }

    fn count(&self, name: &str, month: &str, messages: i64) -> Result<(), QueueError> {
        self.execute(
            "INSERT INTO quotas (name, month, used) VALUES (?1, ?2, max(?3, 0))
             ON CONFLICT DO UPDATE SET used = max(used + ?3, 0)",
            params![name, month, messages],
        )?;
        Ok(())
    }

    /// What an earlier process has left. That one is gone: what it had under way ends now, and not again each time a process
    /// begins. Otherwise a host that is killed every few seconds would post ever less.
    pub(in crate::queue) fn known_robots(&self, now: u64) -> Result<Vec<Known>, QueueError> {
        // Once in a process: there is one row for each robot that was ever shut.
        self.execute(
            "DELETE FROM closings WHERE until <= ?1 OR until >= ?2",
            [stored(now), stored(now.saturating_add(FAR_MS))],
        )?;
        // Nor must a clock that was set back make anything count for ever.
        let latest = stored(now.saturating_add(LATE_MS));
        self.execute(
            "UPDATE posts SET ended_at = ?1, gone_at = ?1 + counts_for WHERE ended_at IS NULL OR ended_at > ?1",
            [latest],
        )?;
        self.execute("DELETE FROM posts WHERE gone_at <= ?1", [stored(now)])?;
        let robot = |bytes: Vec<u8>| Digest::try_from(bytes).ok();
        let mut known: BTreeMap<Digest, Known> = BTreeMap::new();
        let posts: Vec<(Vec<u8>, i64)> =
            self.all("SELECT robot, ended_at FROM posts ORDER BY ended_at", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let entry = |robot| Known { robot, posts: Vec::new(), shut: None };
        for (robot, ended) in posts.into_iter().filter_map(|(bytes, ended)| Some((robot(bytes)?, ended))) {
            let ago = stored(now).saturating_sub(ended);
            known.entry(robot).or_insert_with(|| entry(robot)).posts.push(ago);
        }
        let closings: Vec<(Vec<u8>, i64, String)> = self.all(
            "SELECT robot, until, closing FROM closings WHERE until > ?1 AND until < ?2",
            [stored(now), stored(now.saturating_add(FAR_MS))],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        for (bytes, until, text) in closings {
            if let (Some(robot), Some(closing)) = (robot(bytes), Closing::from_text(&text)) {
                let left = read(until).saturating_sub(now);
                known.entry(robot).or_insert_with(|| entry(robot)).shut = Some((closing, left));
            }
        }
        Ok(known.into_values().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Limits, Side};

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn what_a_killed_process_had_under_way_ends_once() {
        let dir = tempfile::TempDir::new().unwrap();
        let open = || Store::create(Side::Outbox, dir.path(), Limits::default()).unwrap();
        let store = open();
        let claimed = store.claim(&crate::queue::tests::ledger::intent("0", None, 2), NOW).unwrap().unwrap();
        store.end_post(&claimed.posts[0], &Lesson::Counted, NOW + 10).unwrap();
        let late = i64::try_from(LATE_MS).unwrap();
        // Each opening is one after a kill: nothing has noted the second post's end.
        for (after, ago) in [(1_000, [990, -late]), (4_000, [3_990, 3_000 - late]), (40_000, [39_990, 39_000 - late])] {
            let known = open().known_robots(NOW + after).unwrap();
            assert_eq!(known[0].posts, ago, "{after} ms later");
        }
        let known = open().known_robots(NOW - 1_000_000).unwrap();
        assert_eq!(known[0].posts, [-late, -late], "by a clock that was set back");
    }
}
