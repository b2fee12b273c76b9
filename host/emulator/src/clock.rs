//! The emulator's clock and the forms in which protocols write its time.
//!
//! The clock is the machine's, moved by the configured offset. The calendar is the proleptic Gregorian one; seconds are
//! those of the Unix epoch, without leap seconds.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01 00:00:00 UTC on the emulator's clock.
pub(crate) fn now(offset_seconds: i64) -> i64 {
    let machine = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    };
    machine.saturating_add(offset_seconds)
}

/// `2024-10-18T19:51:37.0000000+00:00`: ISO 8601 with the seven fraction digits of .NET's round-trip format.
pub(crate) fn iso8601(unix: i64) -> String {
    let Civil {
        year,
        month,
        day,
        hour,
        minute,
        second,
        ..
    } = Civil::from_unix(unix);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.0000000+00:00")
}

/// `2024-10-18 19:51:37Z`: how Entra dates its refusals.
pub(crate) fn universal(unix: i64) -> String {
    let iso = iso8601(unix);
    // The seconds are where the fraction begins, whatever the length of the year.
    let whole = iso.split('.').next().unwrap_or_default();
    format!("{}Z", whole.replacen('T', " ", 1))
}

/// `06/20/2019 02:57:58 +00:00`: how the 2017-09-01 App Service protocol writes a time on Linux.
pub(crate) fn month_day_year(unix: i64) -> String {
    let Civil {
        year,
        month,
        day,
        hour,
        minute,
        second,
        ..
    } = Civil::from_unix(unix);
    format!("{month:02}/{day:02}/{year:04} {hour:02}:{minute:02}:{second:02} +00:00")
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`: the `Date` header (RFC 9110, section 5.6.7).
pub(crate) fn http_date(unix: i64) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let Civil {
        year,
        month,
        day,
        hour,
        minute,
        second,
        weekday,
    } = Civil::from_unix(unix);
    let (weekday, month) = (DAYS[weekday], MONTHS[month - 1]);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// A moment taken apart. `month` counts from 1, `weekday` from 0 for Sunday.
struct Civil {
    year: i64,
    month: usize,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    weekday: usize,
}

impl Civil {
    fn from_unix(unix: i64) -> Self {
        const SECONDS_PER_DAY: i64 = 86_400;
        const DAYS_PER_400_YEARS: i64 = 146_097;
        let (days, seconds) = (unix.div_euclid(SECONDS_PER_DAY), unix.rem_euclid(SECONDS_PER_DAY));
        // Count from 0000-03-01, so that a leap day is the last day of its (shifted) year.
        let shifted = days + 719_468;
        let (era, day_of_era) = (
            shifted.div_euclid(DAYS_PER_400_YEARS),
            shifted.rem_euclid(DAYS_PER_400_YEARS),
        );
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months from March on have 31, 30, 31, 30, 31 days, repeatedly: 153 days in five months.
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month: usize::try_from(month).unwrap_or(1),
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            hour: seconds / 3_600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            // 1970-01-01 was a Thursday.
            weekday: usize::try_from((days + 4).rem_euclid(7)).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_each_protocol_wants_them() {
        for (unix, iso, month_first, http) in [
            (
                0,
                "1970-01-01T00:00:00.0000000+00:00",
                "01/01/1970 00:00:00 +00:00",
                "Thu, 01 Jan 1970 00:00:00 GMT",
            ),
            (
                -1,
                "1969-12-31T23:59:59.0000000+00:00",
                "12/31/1969 23:59:59 +00:00",
                "Wed, 31 Dec 1969 23:59:59 GMT",
            ),
            (
                784_111_777,
                "1994-11-06T08:49:37.0000000+00:00",
                "11/06/1994 08:49:37 +00:00",
                "Sun, 06 Nov 1994 08:49:37 GMT",
            ),
            (
                951_782_400,
                "2000-02-29T00:00:00.0000000+00:00",
                "02/29/2000 00:00:00 +00:00",
                "Tue, 29 Feb 2000 00:00:00 GMT",
            ),
            (
                1_560_999_478,
                "2019-06-20T02:57:58.0000000+00:00",
                "06/20/2019 02:57:58 +00:00",
                "Thu, 20 Jun 2019 02:57:58 GMT",
            ),
            (
                4_107_542_400,
                "2100-03-01T00:00:00.0000000+00:00",
                "03/01/2100 00:00:00 +00:00",
                "Mon, 01 Mar 2100 00:00:00 GMT",
            ),
        ] {
            assert_eq!(iso8601(unix), iso);
            assert_eq!(universal(unix), format!("{}Z", iso[..19].replace('T', " ")));
            assert_eq!(month_day_year(unix), month_first);
            assert_eq!(http_date(unix), http);
        }
    }

    #[test]
    fn absurd_times_do_not_panic() {
        for unix in [i64::MIN, i64::MAX] {
            assert!(!http_date(unix).is_empty());
            assert!(!iso8601(unix).is_empty());
        }
        assert_eq!(now(i64::MAX), i64::MAX);
    }
}
