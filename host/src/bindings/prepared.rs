//! A binding that was initialised, or not, and what the log is to have of that.

use std::sync::Arc;

use dingtalk_binding::endpoint::Origin;

use super::{Binding, InitError};

/// What has come of a component.
pub(crate) struct Prepared {
    pub(super) name: String,
    pub(super) warnings: Vec<Warning>,
    pub(super) binding: Result<Arc<Binding>, InitError>,
}

/// What works, but probably not as meant.
pub(super) enum Warning {
    /// The url is plain http, to another machine.
    ReadableToken(Origin),
    UnusedToken,
    PreviousSecret,
    UncountedQuota,
}

impl Prepared {
    /// Says what is to be said; the binding.
    pub(crate) fn said(self) -> Result<Arc<Binding>, InitError> {
        let binding = self.name;
        for warning in self.warnings {
            match warning {
                Warning::ReadableToken(origin) => tracing::warn!(
                    binding,
                    destination = %origin,
                    "the url is plain http: the access token and every message travel readable; use https"
                ),
                Warning::UnusedToken => tracing::warn!(
                    binding,
                    "outgoingToken is not used: callbacks must be signed, because there is a secret or appSecret; for a robot \
                     that sends its token, write a component of its own with direction: input"
                ),
                Warning::PreviousSecret => tracing::warn!(
                    binding,
                    "callbacks signed with previousAppSecret are taken: remove it when callbackMaxSkew is over since DingTalk \
                     signs with the new secret"
                ),
                Warning::UncountedQuota => tracing::warn!(
                    binding,
                    "without an outbox, what is posted does not count towards the property quota"
                ),
            }
        }
        self.binding
    }
}
