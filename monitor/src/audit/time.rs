//! Times as Kubernetes writes them into events: RFC 3339 in UTC with microseconds
//! (staging/src/k8s.io/apimachinery/pkg/apis/meta/v1/micro_time.go).

use std::time::{Duration, SystemTime};

/// The time that `2026-11-25T07:15:01.954733Z` says; `None` where it is written otherwise.
pub fn parse(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.split(':').map(number);
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let fits = (1_970..=9_999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && fraction.len() <= 9;
    if !fits {
        return None;
    }
    let nanoseconds = number(fraction)? * 10_u64.pow(9 - fraction.len() as u32);
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, 0) + Duration::from_nanos(nanoseconds))
}

fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Days since 1970-01-01 in the Gregorian calendar, from 1970 on
/// (<https://howardhinnant.github.io/date_algorithms.html>, `days_from_civil`): years begin in March.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::export::time::Timestamp;

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "Z",
            "T",
            "2026-11-25",
            "2026-11-25T07:15:01.954733",
            "2026-13-25T07:15:01Z",
            "1969-12-31T23:59:59Z",
            "2026-11-25T07:15:01.9547331234Z",
            "2026-11-25T07:15:+1Z",
            "2026-11-25T07:15:01.Z ",
            "99999-11-25T07:15:01Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("1970-01-01T00:00:01Z"), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(microseconds in 0..250_000_000_000_000_000_u64) {
            let time = SystemTime::UNIX_EPOCH + Duration::from_micros(microseconds);
            prop_assert_eq!(parse(&Timestamp(time).to_string()), Some(time));
        }

        #[test]
        fn no_text_is_a_panic(text in "\\PC{0,30}|[0-9TZ:.-]{0,32}") {
            parse(&text);
        }
    }
}
