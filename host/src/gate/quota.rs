//! A month's allowance of messages, which an organisation has for all its robots: the properties `quota`, `quotaReserve` and
//! `quotaName`. Pure: time and what was used are passed in.

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

/// A calendar month is taken for one of China, which has one time zone and no summer time.
const CHINA: Offset = jiff::tz::offset(8);

/// No organisation has more: 50,000, and what can be bought in steps of 500,000.
const MOST: u64 = 1_000_000_000;

/// Shares of the allowance, in percent, of which the log speaks.
const MARKS: [u64; 3] = [100, 90, 70];

/// How many messages a month has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    name: String,
    limit: u64,
    reserve: u64,
}

impl Quota {
    /// Reads the properties. Without `quota`, there is no limit. The error begins with the property's name. `robot` is the
    /// allowance's name if it has none: then it is that of this robot alone.
    pub fn parse(
        quota: Option<&str>,
        reserve: Option<&str>,
        name: Option<&str>,
        robot: impl FnOnce() -> String,
    ) -> Result<Option<Self>, String> {
        let number = |property: &str, text: &str| {
            let wrong = || format!("property \"{property}\" is not a number of messages up to {MOST}");
            text.parse::<u64>().ok().filter(|number| *number <= MOST).ok_or_else(wrong)
        };
        let text = |text: Option<&str>| text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        let (quota, reserve, name) = (text(quota), text(reserve), text(name));
        let Some(quota) = quota else {
            return match (reserve, name) {
                (None, None) => Ok(None),
                (Some(_), _) => Err("property \"quotaReserve\" has no meaning without \"quota\"".into()),
                (None, Some(_)) => Err("property \"quotaName\" has no meaning without \"quota\"".into()),
            };
        };
        let limit = number("quota", &quota)?;
        let reserve = reserve.map_or(Ok(0), |reserve| number("quotaReserve", &reserve))?;
        if reserve > limit {
            return Err("property \"quotaReserve\" is more than \"quota\"".into());
        }
        if name.as_ref().is_some_and(|name| name.len() > 128) {
            return Err("property \"quotaName\" has more than 128 bytes".into());
        }
        Ok(Some(Self { name: name.unwrap_or_else(robot), limit, reserve }))
    }

    /// Whose it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Messages a month.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether so many messages more are within it after `used`.
    pub fn allows(&self, used: u64, messages: u16, is_urgent: bool) -> bool {
        let limit = if is_urgent { self.limit } else { self.limit - self.reserve };
        used.saturating_add(u64::from(messages)) <= limit
    }

    /// The share in percent that is reached with `used` and was not with so many `messages` fewer.
    pub fn reached(&self, used: u64, messages: u16) -> Option<u64> {
        let before = used.saturating_sub(u64::from(messages));
        let mark = |share: &u64| (self.limit * share).div_ceil(100);
        MARKS.into_iter().find(|share| before < mark(share) && mark(share) <= used)
    }
}

/// The month in China at `now`, in milliseconds since the Unix epoch: `2026-11`.
pub fn month(now: u64) -> String {
    let china = china(now);
    format!("{:04}-{:02}", china.year(), china.month())
}

/// For how many milliseconds the month in China goes on.
pub fn rest_of_month(now: u64) -> u64 {
    let china = china(now);
    let end = china.last_of_month().and_then(|last| last.tomorrow()).and_then(|next| next.start_of_day());
    // An error would be a month behind the year 9999.
    let end = end.map_or(0, |end| end.timestamp().as_millisecond());
    u64::try_from(end).unwrap_or(0).saturating_sub(now)
}

fn china(now: u64) -> Zoned {
    let now = i64::try_from(now).ok().and_then(|now| Timestamp::from_millisecond(now).ok()).unwrap_or(Timestamp::MAX);
    now.to_zoned(TimeZone::fixed(CHINA))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

    fn quota(quota: &str, reserve: &str, name: &str) -> Result<Option<Quota>, String> {
        Quota::parse(Some(quota), Some(reserve), Some(name), || "robot".into())
    }

    #[test]
    fn a_number_and_what_is_kept_of_it() {
        assert_eq!(quota("", "", ""), Ok(None));
        let whole = quota("3000", "", "").unwrap().unwrap();
        assert_eq!((whole.name(), whole.limit()), ("robot", 3_000));
        assert!(whole.allows(2_999, 1, false) && !whole.allows(2_999, 2, false) && !whole.allows(3_000, 1, true));
        let kept = quota("3000", "500", "acme").unwrap().unwrap();
        assert_eq!(kept.name(), "acme");
        assert!(kept.allows(2_499, 1, false) && !kept.allows(2_500, 1, false) && kept.allows(2_500, 500, true));
        for (text, reserve, name, says) in [
            ("many", "", "", "\"quota\" is not a number"),
            ("-1", "", "", "\"quota\" is not a number"),
            ("1000000001", "", "", "up to 1000000000"),
            ("10", "11", "", "\"quotaReserve\" is more than"),
            ("", "5", "", "\"quotaReserve\" has no meaning"),
            ("", "", "acme", "\"quotaName\" has no meaning"),
        ] {
            let error = quota(text, reserve, name).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_log_speaks_of_three_shares_once_each() {
        let quota = quota("10", "", "").unwrap().unwrap();
        let spoken: Vec<_> = (1..=10).filter_map(|used| quota.reached(used, 1).map(|share| (used, share))).collect();
        assert_eq!(spoken, [(7, 70), (9, 90), (10, 100)]);
        assert_eq!(quota.reached(10, 5), Some(100), "of several at once, the last");
    }

    #[test]
    fn a_month_is_one_of_china() {
        // 2026-11-30 15:59:59.999 and 16:00 UTC.
        let last = 1_796_054_399_999;
        assert_eq!((month(last), month(last + 1)), ("2026-11".into(), "2026-12".into()));
        assert_eq!((rest_of_month(last), rest_of_month(last + 1)), (1, 31 * DAY_MS));
        assert_eq!((month(0), month(u64::MAX)), ("1970-01".into(), "9999-12".into()));
    }
}
