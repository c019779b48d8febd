//! Points in time as RFC 3339 has them, in UTC with microseconds.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

/// Displays and serializes as `2026-11-23T17:00:00.123456Z`; what is below a microsecond is cut.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp(pub SystemTime);

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let microseconds = match self.0.duration_since(UNIX_EPOCH) {
            Ok(after) => i128::try_from(after.as_micros()).unwrap_or(i128::MAX),
            // Rounded down like the others: a fraction before 1970 belongs to the second that began before it.
            Err(before) => -i128::try_from(before.duration().as_nanos().div_ceil(1_000)).unwrap_or(i128::MAX),
        };
        let seconds = microseconds.div_euclid(1_000_000);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil_from_days(days);
        write!(
            formatter,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
            second / 3_600,
            second / 60 % 60,
            second % 60,
            microseconds.rem_euclid(1_000_000)
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Year, month and day of this day since 1970-01-01 in the Gregorian calendar.
///
/// The algorithm of the C++ library's `year_month_day` (<https://howardhinnant.github.io/date_algorithms.html>): years
/// begin in March, so that the leap day is a year's last, and 400 years have 146,097 days.
fn civil_from_days(days: i128) -> (i128, i128, i128) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i128::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn known_points_in_time() {
        let cases = [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 999_999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400, 1_000, "2000-02-29T00:00:00.000001Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000000Z"),
            (1_795_453_200, 123_456_789, "2026-11-23T17:00:00.123456Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59.000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59.000000Z"),
        ];
        for (seconds, nanoseconds, text) in cases {
            let time = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            assert_eq!(Timestamp(time).to_string(), text);
        }
    }

    #[test]
    fn before_1970() {
        let time = UNIX_EPOCH - Duration::from_nanos(1);
        assert_eq!(Timestamp(time).to_string(), "1969-12-31T23:59:59.999999Z");
        assert_eq!(Timestamp(UNIX_EPOCH - Duration::from_secs(86_400)).to_string(), "1969-12-31T00:00:00.000000Z");
    }

    #[test]
    fn every_day_follows_the_day_before() {
        let (mut year, mut month, mut day) = (1600, 1, 1);
        // 1600-01-01 is 135,140 days before 1970-01-01; two eras cover every rule of the calendar.
        for days in -135_140..2 * 146_097 - 135_140 {
            assert_eq!(civil_from_days(days), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + i128::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }
}
