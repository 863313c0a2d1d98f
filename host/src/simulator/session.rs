//! The sessions behind `sessionWebhook`: who was spoken to may post for 90 minutes, without a signature.
//!
//! Source: DingTalk open platform; 90 minutes are the difference between `createAt` and
//! `sessionWebhookExpiredTime` in its samples.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use uuid::Uuid;

/// How long a session lasts, in milliseconds.
pub(crate) const LIFETIME: u64 = 90 * 60 * 1_000;

/// How many sessions are kept, as many as messages; the oldest end first.
const MAX_SESSIONS: usize = 10_000;

/// The open sessions, by token.
#[derive(Default)]
pub(crate) struct Sessions {
    expiry: HashMap<String, u64>,
    order: VecDeque<String>,
}

impl Sessions {
    /// A new session: its token, 122 random bits in hexadecimal, and when it ends.
    pub(crate) fn open(&mut self, now: u64) -> (String, u64) {
        if self.order.len() >= MAX_SESSIONS
            && let Some(oldest) = self.order.pop_front()
        {
            self.expiry.remove(&oldest);
        }
        let token = Uuid::new_v4().simple().to_string();
        let expires = now.saturating_add(LIFETIME);
        self.expiry.insert(token.clone(), expires);
        self.order.push_back(token.clone());
        (token, expires)
    }

    /// Whether the session exists and has not ended. It ends at the time that the callback named; whether the
    /// last millisecond belongs to it is not confirmed.
    pub(crate) fn is_open(&self, token: &str, now: u64) -> bool {
        self.expiry.get(token).is_some_and(|expires| now < *expires)
    }
}

impl fmt::Debug for Sessions {
    /// Without the tokens: whoever has one may post.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sessions", self.order.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn a_session_lasts_ninety_minutes() {
        let mut sessions = Sessions::default();
        let (token, expires) = sessions.open(NOW);
        assert_eq!(expires, NOW + 5_400_000);
        assert!(token.len() == 32 && token.bytes().all(|b| b.is_ascii_hexdigit()), "{token}");
        for (now, open) in [(NOW, true), (expires - 1, true), (expires, false)] {
            assert_eq!(sessions.is_open(&token, now), open, "{now}");
        }
        assert!(!sessions.is_open("", NOW) && !sessions.is_open(&token[1..], NOW));
        assert!(!format!("{sessions:?}").contains(&token));
    }

    #[test]
    fn only_so_many_are_kept() {
        let mut sessions = Sessions::default();
        let tokens: Vec<String> = (0..=MAX_SESSIONS).map(|_| sessions.open(NOW).0).collect();
        assert!(!sessions.is_open(&tokens[0], NOW) && sessions.is_open(&tokens[1], NOW));
        assert_eq!((sessions.expiry.len(), sessions.order.len()), (MAX_SESSIONS, MAX_SESSIONS));
    }
}
