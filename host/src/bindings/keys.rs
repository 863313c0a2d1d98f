//! The secrets that a binding's callbacks can be signed with.

use dingtalk_binding::callback::Key;
use dingtalk_binding::secret::Secret;
use dingtalk_binding::signature::{self, Signer};

use crate::event::{Digest, digest};

/// As hashes, and with them what is needed to tell two apart.
#[derive(Default)]
pub(super) enum Keys {
    /// Callbacks have a token, or there are none.
    #[default]
    None,
    /// Whatever is verified is signed with it.
    One(Digest),
    /// The present one, and the one before it.
    Two(Box<[(Digest, Secret); 2]>),
}

impl Keys {
    pub(super) fn of(key: Option<&Key>) -> Self {
        let Some(Key::Signature { secret, previous }) = key else { return Self::None };
        let (secret, previous) = (secret.secret(), previous.as_ref().map(Signer::secret));
        let id = |secret: &Secret| digest(secret.expose().as_bytes());
        match previous {
            // Two that are one verify the same.
            Some(previous) if previous != secret => {
                Self::Two(Box::new([(id(secret), secret.clone()), (id(previous), previous.clone())]))
            }
            _ => Self::One(id(secret)),
        }
    }

    /// The present one first.
    pub(super) fn ids(&self) -> impl Iterator<Item = Digest> + '_ {
        let (first, second) = match self {
            Self::None => (None, None),
            Self::One(only) => (Some(*only), None),
            Self::Two(two) => {
                let [(present, _), (previous, _)] = &**two;
                (Some(*present), Some(*previous))
            }
        };
        first.into_iter().chain(second)
    }

    /// The one with which a callback is signed that has been verified.
    pub(super) fn signed_with(&self, timestamp: &str, sign: &[u8]) -> Option<Digest> {
        match self {
            Self::None => None,
            Self::One(only) => Some(*only),
            Self::Two(two) => {
                let [present, _] = &**two;
                let is_by = |(_, secret): &&(Digest, Secret)| signature::verify(secret.expose(), timestamp, sign);
                Some(two.iter().find(is_by).unwrap_or(present).0)
            }
        }
    }
}
