//! `Retry-After`: how long an application asks to be left alone.

use std::time::{Duration, SystemTime};

/// The longest time that is believed. A wrong clock or a slip of the pen must not stop the deliveries for a day.
pub(super) const LONGEST: Duration = Duration::from_secs(300);

/// Seconds or an HTTP date, as RFC 9110 has it; `None` for anything else.
pub(crate) fn parse(value: &[u8], now: SystemTime) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let pause = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // What is no u64 is longer than any pause.
        text.parse().map_or(LONGEST, Duration::from_secs)
    } else {
        httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(pause.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn seconds_and_dates_are_read_and_nothing_else() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, seconds) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("300", Some(300)),
            ("301", Some(300)),
            ("99999999999999999999999", Some(300)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:50:37 1994", Some(60)),
            ("Sun, 06 Nov 1994 08:49:36 GMT", Some(0)),
            ("Mon, 06 Nov 2034 08:49:36 GMT", Some(300)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(parse(text.as_bytes(), now), seconds.map(Duration::from_secs), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_pause_is_longer_than_the_longest(value: Vec<u8>, seconds: u32) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(seconds));
            prop_assert!(parse(&value, now).is_none_or(|pause| pause <= LONGEST));
        }
    }
}
