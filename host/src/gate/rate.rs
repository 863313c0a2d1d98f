//! How many messages in how long: the property `rateLimit`.

use std::cmp::Ordering;
use std::fmt;
use std::num::NonZeroU16;
use std::time::Duration;

use dingtalk_binding::duration;

/// DingTalk's own limit: "20 messages a minute" for each robot, which it shuts for ten minutes above that.
const DEFAULT: (u16, Duration) = (20, Duration::from_secs(60));

/// Each message within the window takes four bytes, for each robot.
pub(super) const MOST: u16 = 1_000;

/// A window beyond that is a quota, which must outlive the process.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// At most so many messages in any stretch of time so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: NonZeroU16,
    /// In milliseconds: it stands in every gate.
    window: u32,
}

impl Rate {
    /// Reads a property: `20/1m`, or `0` for no limit. Absent or empty is DingTalk's own limit. The error is meant to
    /// follow the property's name.
    pub fn parse(text: Option<&str>) -> Result<Option<Self>, String> {
        let text = text.map(str::trim).unwrap_or_default();
        let (count, window) = match text {
            "" => return Ok(NonZeroU16::new(DEFAULT.0).map(|count| Self { count, window: millis(DEFAULT.1) })),
            "0" => return Ok(None),
            _ => text.split_once('/').ok_or(WRONG)?,
        };
        let count: u32 = count.trim().parse().map_err(|_| WRONG)?;
        let window = duration::parse(window.trim()).map_err(|_| WRONG)?;
        if count == 0 {
            return Err("allows no message at all; write \"0\" alone for no limit".into());
        }
        let count = u16::try_from(count).ok().filter(|count| *count <= MOST).and_then(NonZeroU16::new);
        let count = count.ok_or_else(|| format!("has more than {MOST} messages; write fewer in a shorter time"))?;
        if window < Duration::from_secs(1) || window > LONGEST {
            return Err("has a time that is not between 1s and 1h".into());
        }
        Ok(Some(Self { count, window: millis(window) }))
    }

    /// Messages within one window.
    pub fn count(self) -> u16 {
        self.count.get()
    }

    /// Which of two lets more through in the long run; where both let as many, the one that lets fewer through at once is
    /// taken for the wider one, because the other keeps it then, too.
    pub(super) fn width(self, other: Self) -> Ordering {
        let product = |count: u16, window: u32| u64::from(count) * u64::from(window);
        let run = product(self.count(), other.window).cmp(&product(other.count(), self.window));
        run.then(other.count.cmp(&self.count))
    }

    /// How long it is, in milliseconds.
    pub(crate) fn window_ms(self) -> u32 {
        self.window
    }
}

fn millis(window: Duration) -> u32 {
    u32::try_from(window.as_millis()).unwrap_or(u32::MAX)
}

const WRONG: &str = "is not a number of messages in a time; write for example \"20/1m\", or \"0\" for no limit";

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.window {
            60_000 => write!(f, "{} messages a minute", self.count),
            millis if millis % 1_000 == 0 => write!(f, "{} messages in {} s", self.count, millis / 1_000),
            millis => write!(f, "{} messages in {millis} ms", self.count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_messages_in_a_time() {
        let shown = |text: &str| Rate::parse(Some(text)).unwrap().map(|rate| rate.to_string());
        for (text, says) in [
            ("", Some("20 messages a minute")),
            ("20/1m", Some("20 messages a minute")),
            (" 5 / 10s ", Some("5 messages in 10 s")),
            ("1/1500ms", Some("1 messages in 1500 ms")),
            ("1000/1h", Some("1000 messages in 3600 s")),
            ("0", None),
        ] {
            assert_eq!(shown(text).as_deref(), says, "{text}");
        }
        assert_eq!(Rate::parse(None), Rate::parse(Some("20/60s")));
    }

    #[test]
    fn what_is_none_says_what_to_write_and_repeats_nothing() {
        for (text, says) in [
            ("20", "write for example \"20/1m\""),
            ("S3CR3T/1m", "write for example"),
            ("20/S3CR3T", "write for example"),
            ("-1/1m", "write for example"),
            ("0/1m", "write \"0\" alone"),
            ("1001/1m", "more than 1000"),
            ("99999999999/1m", "write for example"),
            ("5/10ms", "between 1s and 1h"),
            ("5/2h", "between 1s and 1h"),
        ] {
            let error = Rate::parse(Some(text)).unwrap_err();
            assert!(error.contains(says) && !error.contains("S3CR3T"), "{text}: {error}");
        }
    }
}
