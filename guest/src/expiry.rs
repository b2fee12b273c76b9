//! When a token expires: every way in which identity endpoints say it.
//!
//! Endpoints state the expiry as `expires_in` (seconds from now), as `expires_on` (a moment), or both; each as a JSON
//! number or as a string, and `expires_on` also as a date in one of several forms:
//!
//! | form | who sends it |
//! |---|---|
//! | `1700003600`, `"1700003600"`, `1700003600.5` | most endpoints |
//! | `2024-10-18T19:51:37.0000000+00:00` (RFC 3339) | App Service, at times |
//! | `Sun, 22 Nov 3333 04:05:06 GMT` (RFC 9110, section 5.6.7) | required by the test suite of the C++ SDK |
//! | `06/20/2019 02:57:58 +00:00` | App Service, version 2017-09-01, Linux |
//! | `1/16/2020 5:24:12 AM +00:00` | App Service, version 2017-09-01, Windows |
//! | `2019-06-20 02:57:58`, `06/20/2019 02:57:58` | accepted by MSAL Go; without an offset they are in UTC |
//!
//! What does not fit a form exactly is unreadable: a wrong guess here hands out dead tokens or throws live ones away.
//! White space around a value is not part of it. The day of the week is not checked, everything else of a date is.

use crate::json::Json;
use std::fmt;

/// 9999-12-31T23:59:59Z, the last moment that all the date forms can write. Later ones are taken for garbage.
pub const LATEST: u64 = 253_402_300_799;

const SECONDS_PER_DAY: i64 = 86_400;

/// Why a reply tells no usable expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiryError {
    /// Neither field is there in a form that can be read.
    Unreadable,
    /// The expiry was read, and it is not in the future.
    AlreadyExpired,
}

impl fmt::Display for ExpiryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unreadable => "neither expires_in nor expires_on says when the token expires",
            Self::AlreadyExpired => "the token has already expired",
        })
    }
}

impl std::error::Error for ExpiryError {}

/// The moment at which a token received at `now` expires, in seconds since 1970.
///
/// One readable field is enough. Of two readable ones `expires_in` wins, because it does not depend on the clock here.
///
/// # Errors
///
/// When no field can be read, and when the moment is not after `now`.
pub fn expiry(expires_in: Option<&Json>, expires_on: Option<&Json>, now: u64) -> Result<u64, ExpiryError> {
    let moment = expires_in
        .and_then(seconds)
        .and_then(|lifetime| now.checked_add(lifetime))
        .filter(|&moment| moment <= LATEST)
        .or_else(|| expires_on.and_then(instant))
        .ok_or(ExpiryError::Unreadable)?;
    if moment > now {
        Ok(moment)
    } else {
        Err(ExpiryError::AlreadyExpired)
    }
}

/// A number of seconds, as `expires_in` and `refresh_in` have it: a JSON number or a decimal string, whose fraction is
/// dropped. Signs and exponents in strings, negative numbers and whatever exceeds [`LATEST`] are refused.
#[must_use]
pub fn seconds(value: &Json) -> Option<u64> {
    match value {
        Json::Whole(number) => (*number <= LATEST).then_some(*number),
        // The comparison also refuses NaN; the bound makes the conversion exact.
        Json::Number(number) => (number.is_sign_positive() && *number <= LATEST as f64).then_some(*number as u64),
        Json::Text(text) => decimal(text.trim_ascii()),
        _ => None,
    }
}

/// A moment, as `expires_on` and `not_before` have it: [`seconds`] since 1970, or a date in any form listed above.
/// A date before 1970 counts as 1970: both are long past.
#[must_use]
pub fn instant(value: &Json) -> Option<u64> {
    seconds(value).or_else(|| {
        let text = value.as_text()?.trim_ascii();
        numeric_date(text).or_else(|| http_date(text))
    })
}

/// An `HTTP-date` (RFC 9110, section 5.6.7), as `Date` and `Retry-After` have it, in seconds since 1970: the preferred
/// form `Sun, 06 Nov 1994 08:49:37 GMT`, and the obsolete `Sunday, 06-Nov-94 08:49:37 GMT` and
/// `Sun Nov  6 08:49:37 1994`.
///
/// A year of two digits is one of 1970 to 2069. (The RFC lets the century slide with the clock; the two readings differ
/// for no date that a live server sends.)
#[must_use]
pub fn http_date(text: &str) -> Option<u64> {
    let mut scan = Scanner(text.trim_ascii().as_bytes());
    scan.day_name()?;
    if !scan.eat(b',') {
        scan.expect(b' ')?;
        let month = scan.month_name()?;
        scan.expect(b' ')?;
        let day = if scan.eat(b' ') {
            scan.number(1, 1)?
        } else {
            scan.number(2, 2)?
        };
        scan.expect(b' ')?;
        let time = scan.time(2)?;
        scan.expect(b' ')?;
        let year = scan.number(4, 4)?;
        scan.end()?;
        return moment((year, month, day), time, 0);
    }
    scan.expect(b' ')?;
    let day = scan.number(2, 2)?;
    let separator = if scan.eat(b'-') { b'-' } else { b' ' };
    if separator == b' ' {
        scan.expect(b' ')?;
    }
    let month = scan.month_name()?;
    scan.expect(separator)?;
    let year = if separator == b' ' {
        scan.number(4, 4)?
    } else {
        let year = scan.number(2, 2)?;
        year + if year < 70 { 2000 } else { 1900 }
    };
    scan.expect(b' ')?;
    let time = scan.time(2)?;
    for &byte in b" GMT" {
        scan.expect(byte)?;
    }
    scan.end()?;
    moment((year, month, day), time, 0)
}

/// The forms that begin with a digit.
fn numeric_date(text: &str) -> Option<u64> {
    let scan = Scanner(text.as_bytes());
    if text.as_bytes().get(4) == Some(&b'-') {
        iso_date(scan)
    } else {
        american_date(scan)
    }
}

/// RFC 3339, where a space may stand for the `T` and before the offset, and the offset may be absent.
fn iso_date(mut scan: Scanner<'_>) -> Option<u64> {
    let year = scan.number(4, 4)?;
    scan.expect(b'-')?;
    let month = scan.number(2, 2)?;
    scan.expect(b'-')?;
    let day = scan.number(2, 2)?;
    if !(scan.eat(b'T') || scan.eat(b't')) {
        scan.expect(b' ')?;
    }
    let time = scan.time(2)?;
    scan.fraction()?;
    scan.spaces();
    let offset = scan.offset()?;
    scan.end()?;
    moment((year, month, day), time, offset)
}

/// Month/day/year, with a 24-hour clock or with AM and PM, and with or without an offset.
fn american_date(mut scan: Scanner<'_>) -> Option<u64> {
    let month = scan.number(1, 2)?;
    scan.expect(b'/')?;
    let day = scan.number(1, 2)?;
    scan.expect(b'/')?;
    let year = scan.number(4, 4)?;
    scan.expect(b' ')?;
    let (mut hour, minute, second) = scan.time(1)?;
    scan.fraction()?;
    scan.spaces();
    if let Some(half) = scan.half_of_day() {
        if !(1..=12).contains(&hour) {
            return None;
        }
        hour = hour % 12 + half;
        scan.spaces();
    }
    let offset = scan.offset()?;
    scan.end()?;
    moment((year, month, day), (hour, minute, second), offset)
}

fn decimal(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    whole.parse().ok().filter(|&seconds| seconds <= LATEST)
}

/// Seconds since 1970 of a date and time at `offset` seconds east of UTC; `None` when the calendar has no such moment.
/// A leap second, `:60`, is the first second of the next minute, as POSIX time has it.
fn moment((year, month, day): (i64, i64, i64), (hour, minute, second): (i64, i64, i64), offset: i64) -> Option<u64> {
    const DAYS_BEFORE_MONTH: [i64; 13] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365];
    const DAYS_BEFORE_1970: i64 = 719_162; // from 0001-01-01 of the Gregorian calendar

    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let index = usize::try_from(month).ok().filter(|index| (1..=12).contains(index))?;
    let length = DAYS_BEFORE_MONTH[index] - DAYS_BEFORE_MONTH[index - 1] + i64::from(leap && month == 2);
    if !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }

    let past = year - 1;
    let leap_days = past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400);
    let day_of_year = DAYS_BEFORE_MONTH[index - 1] + i64::from(leap && month > 2) + day - 1;
    let days = past * 365 + leap_days + day_of_year - DAYS_BEFORE_1970;
    let seconds = days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second - offset;
    u64::try_from(seconds.max(0)).ok().filter(|&seconds| seconds <= LATEST)
}

/// What is left to read of a date. Every step that does not fit ends the reading with `None`.
struct Scanner<'a>(&'a [u8]);

impl Scanner<'_> {
    fn eat(&mut self, byte: u8) -> bool {
        let eaten = self.0.first() == Some(&byte);
        if eaten {
            self.0 = &self.0[1..];
        }
        eaten
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.eat(byte).then_some(())
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    /// Spaces, and the narrow no-break space that .NET on ICU 72 and later puts before AM and PM.
    fn spaces(&mut self) {
        while let Some(rest) = self
            .0
            .strip_prefix(b" ")
            .or_else(|| self.0.strip_prefix("\u{202f}".as_bytes()))
        {
            self.0 = rest;
        }
    }

    /// A number of `fewest` to `most` digits; `most` is 4 at the most, so nothing overflows.
    fn number(&mut self, fewest: usize, most: usize) -> Option<i64> {
        let digits = self.digits(most);
        let (number, rest) = self.0.split_at(digits);
        self.0 = rest;
        (digits >= fewest).then(|| {
            number
                .iter()
                .fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
        })
    }

    /// How many digits come next, counting no further than `most`.
    fn digits(&self, most: usize) -> usize {
        self.0
            .iter()
            .take(most)
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    }

    /// Hour, minute and second, where the hour has at least `fewest` digits.
    fn time(&mut self, fewest: usize) -> Option<(i64, i64, i64)> {
        let hour = self.number(fewest, 2)?;
        self.expect(b':')?;
        let minute = self.number(2, 2)?;
        self.expect(b':')?;
        Some((hour, minute, self.number(2, 2)?))
    }

    /// Steps over a fraction of a second of any length, if there is one.
    fn fraction(&mut self) -> Option<()> {
        if self.eat(b'.') {
            let digits = self.digits(usize::MAX);
            (digits > 0).then_some(())?;
            self.0 = &self.0[digits..];
        }
        Some(())
    }

    /// The hours that AM (0) or PM (12) adds, or `None` when neither is there.
    fn half_of_day(&mut self) -> Option<i64> {
        let (half, rest) = self.0.split_at_checked(2)?;
        let afternoon = half.eq_ignore_ascii_case(b"PM");
        (afternoon || half.eq_ignore_ascii_case(b"AM")).then(|| {
            self.0 = rest;
            if afternoon { 12 } else { 0 }
        })
    }

    /// Seconds east of UTC: `Z`, `+hh:mm`, `-hh:mm`, or nothing, which is UTC.
    fn offset(&mut self) -> Option<i64> {
        if self.0.is_empty() || self.eat(b'Z') || self.eat(b'z') {
            return Some(0);
        }
        let sign = if self.eat(b'-') { -1 } else { 1 };
        if sign > 0 {
            self.expect(b'+')?;
        }
        let hours = self.number(2, 2)?;
        self.expect(b':')?;
        let minutes = self.number(2, 2)?;
        (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
    }

    fn day_name(&mut self) -> Option<()> {
        let letters = self.0.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        self.0 = &self.0[letters..];
        (letters >= 3).then_some(())
    }

    fn month_name(&mut self) -> Option<i64> {
        const NAMES: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
        let (name, rest) = self.0.split_at_checked(3)?;
        self.0 = rest;
        (1..)
            .zip(NAMES.chunks(3))
            .find_map(|(month, known)| (name == known).then_some(month))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000; // 2023-11-14T22:13:20Z
    const FAR: u64 = 43_040_261_106; // 3333-11-22T04:05:06Z

    fn value(json: &str) -> Option<Json> {
        (!json.is_empty()).then(|| serde_json::from_str(json).expect("the table holds JSON"))
    }

    /// The moment that `expires_on` means, read from text.
    fn on(text: &str) -> Option<u64> {
        instant(&Json::Text(text.to_owned()))
    }

    #[test]
    fn the_matrix_of_47_replies() {
        const IN: &str = "3600";
        const IN_TEXT: &str = r#""3600""#;
        const ON: &str = "43040261106";
        const ON_TEXT: &str = r#""43040261106""#;
        const ISO: &str = r#""3333-11-22T04:05:06.000Z""#;
        const HTTP: &str = r#""Sun, 22 Nov 3333 04:05:06 GMT""#;
        const UNKNOWN: &str = r#""unknown format""#;
        const EMPTY: &str = r#""""#;
        const NULL: &str = "null";
        const ABSENT: &str = "";
        const SOON: Result<u64, ExpiryError> = Ok(NOW + 3600);
        const LATE: Result<u64, ExpiryError> = Ok(FAR);
        const FAIL: Result<u64, ExpiryError> = Err(ExpiryError::Unreadable);

        #[rustfmt::skip]
        let rows = [
            (IN, ABSENT, SOON), // 00
            (IN_TEXT, ABSENT, SOON),
            (UNKNOWN, ABSENT, FAIL),
            (EMPTY, ABSENT, FAIL),
            (NULL, ABSENT, FAIL),
            (ABSENT, ON, LATE), // 05
            (ABSENT, ON_TEXT, LATE),
            (ABSENT, ISO, LATE),
            (ABSENT, HTTP, LATE),
            (ABSENT, UNKNOWN, FAIL),
            (ABSENT, EMPTY, FAIL), // 10
            (ABSENT, NULL, FAIL),
            (IN, ON, SOON),
            (IN, ON_TEXT, SOON),
            (IN, ISO, SOON),
            (IN, HTTP, SOON), // 15
            (IN, UNKNOWN, SOON),
            (IN, EMPTY, SOON),
            (IN, NULL, SOON),
            (IN_TEXT, ON, SOON),
            (IN_TEXT, ON_TEXT, SOON), // 20
            (IN_TEXT, ISO, SOON),
            (IN_TEXT, HTTP, SOON),
            (IN_TEXT, UNKNOWN, SOON),
            (IN_TEXT, EMPTY, SOON),
            (IN_TEXT, NULL, SOON), // 25
            (UNKNOWN, ON, LATE),
            (UNKNOWN, ON_TEXT, LATE),
            (UNKNOWN, ISO, LATE),
            (UNKNOWN, HTTP, LATE),
            (UNKNOWN, UNKNOWN, FAIL), // 30
            (UNKNOWN, EMPTY, FAIL),
            (UNKNOWN, NULL, FAIL),
            (EMPTY, ON, LATE),
            (EMPTY, ON_TEXT, LATE),
            (EMPTY, ISO, LATE), // 35
            (EMPTY, HTTP, LATE),
            (EMPTY, UNKNOWN, FAIL),
            (EMPTY, EMPTY, FAIL),
            (EMPTY, NULL, FAIL),
            (NULL, ON, LATE), // 40
            (NULL, ON_TEXT, LATE),
            (NULL, ISO, LATE),
            (NULL, HTTP, LATE),
            (NULL, UNKNOWN, FAIL),
            (NULL, EMPTY, FAIL), // 45
            (NULL, NULL, FAIL),
        ];
        assert_eq!(rows.len(), 47);
        for (row, (expires_in, expires_on, expected)) in rows.into_iter().enumerate() {
            let got = expiry(value(expires_in).as_ref(), value(expires_on).as_ref(), NOW);
            assert_eq!(got, expected, "row {row:02}: {expires_in:?}, {expires_on:?}");
        }
    }

    #[test]
    fn a_token_that_has_no_time_left_is_expired_and_not_unreadable() {
        const LATER: &str = "1700003600";
        for (expires_in, expires_on) in [
            ("0", ""),
            (r#""0""#, ""),
            ("0.9", ""),
            ("0", LATER), // expires_in wins even when it is the worse news
            ("", "0"),
            ("", "1699999999"),
            ("", "1700000000"),
            ("-1", "1700000000"),
            ("", r#""3600""#),                 // a duration in the wrong field is a moment in 1970
            ("", r#""0001-01-01T00:00:00Z""#), // .NET's default date
            ("", r#""01/01/0001 00:00:00 +00:00""#),
        ] {
            let got = expiry(value(expires_in).as_ref(), value(expires_on).as_ref(), NOW);
            assert_eq!(got, Err(ExpiryError::AlreadyExpired), "{expires_in:?}, {expires_on:?}");
        }
        assert_eq!(expiry(None, value("1700000001").as_ref(), NOW), Ok(NOW + 1));
    }

    #[test]
    fn an_expires_in_that_cannot_be_meant_leaves_the_word_to_expires_on() {
        for expires_in in [
            "-1",
            "-0.5",
            "1e300",
            "253402300799", // past the year 9999 when counted from now
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            r#""18446744073709551616""#,
            r#""-3600""#,
            "true",
            "[3600]",
            r#"{"seconds":3600}"#,
        ] {
            let expires_in = value(expires_in);
            let expires_on = Json::Whole(NOW + 60);
            assert_eq!(expiry(expires_in.as_ref(), Some(&expires_on), NOW), Ok(NOW + 60));
            assert_eq!(expiry(expires_in.as_ref(), None, NOW), Err(ExpiryError::Unreadable));
        }
    }

    #[test]
    fn no_clock_makes_the_sum_overflow() {
        let hour = Json::Whole(3600);
        assert_eq!(expiry(Some(&hour), None, u64::MAX), Err(ExpiryError::Unreadable));
        assert_eq!(expiry(Some(&hour), None, LATEST - 3600), Ok(LATEST));
        assert_eq!(expiry(Some(&hour), None, LATEST - 3599), Err(ExpiryError::Unreadable));
        assert_eq!(
            expiry(None, Some(&Json::Whole(LATEST)), u64::MAX),
            Err(ExpiryError::AlreadyExpired)
        );
    }

    #[test]
    fn seconds_are_numbers_and_plain_decimals() {
        for (json, expected) in [
            ("0", Some(0)),
            ("86399", Some(86_399)),
            ("3599.999", Some(3599)),
            ("3.6e3", Some(3600)),
            ("253402300799", Some(LATEST)),
            ("253402300799.0", Some(LATEST)),
            ("253402300800", None),
            ("253402300800.0", None),
            ("-0.0", None),
            ("-3600", None),
            (r#""3600""#, Some(3600)),
            (r#""003600""#, Some(3600)),
            (r#""3599.999""#, Some(3599)),
            (r#"" \t3600\r\n""#, Some(3600)),
            (r#""253402300800""#, None),
            (r#""99999999999999999999999999999999""#, None),
            (r#""-3600""#, None),
            (r#""+3600""#, None),
            (r#""3600.""#, None),
            (r#"".5""#, None),
            (r#"".""#, None),
            (r#""1.2.3""#, None),
            (r#""3.6e3""#, None),
            (r#""0x10""#, None),
            (r#""3 600""#, None),
            (r#""3,600""#, None),
            (r#""15609740s28""#, None),
            (r#""NaN""#, None),
            (r#""inf""#, None),
            (r#""Infinity""#, None),
            (r#""\u0663\u0666""#, None), // digits of another script
            (r#""2024-10-18T19:51:37Z""#, None),
            (r#""""#, None),
            (r#"" \t ""#, None),
            ("null", None),
            ("true", None),
            ("[]", None),
            ("{}", None),
        ] {
            assert_eq!(seconds(&value(json).expect("not absent")), expected, "{json}");
        }
    }

    #[test]
    fn every_date_form_of_the_reference_is_read() {
        const OCTOBER: Option<u64> = Some(1_729_281_097); // 2024-10-18T19:51:37Z
        const JUNE: Option<u64> = Some(1_560_999_478); // 2019-06-20T02:57:58Z
        const JANUARY: u64 = 1_579_132_800; // 2020-01-16T00:00:00Z
        for (text, expected) in [
            ("2024-10-18T19:51:37Z", OCTOBER),
            ("2024-10-18t19:51:37z", OCTOBER),
            ("2024-10-18T19:51:37.0000000+00:00", OCTOBER),
            ("2024-10-18T19:51:37.9999999999999999999999999Z", OCTOBER),
            ("2024-10-18T19:51:37-00:00", OCTOBER),
            ("2024-10-18T21:51:37+02:00", OCTOBER),
            ("2024-10-19T01:21:37.5+05:30", OCTOBER),
            ("2024-10-18T12:51:37-07:00", OCTOBER),
            ("2024-10-18T19:51:37", OCTOBER),
            ("2024-10-18 19:51:37", OCTOBER),
            ("2024-10-18 19:51:37 +00:00", OCTOBER),
            ("  2024-10-18T19:51:37Z\r\n", OCTOBER),
            ("Fri, 18 Oct 2024 19:51:37 GMT", OCTOBER),
            ("06/20/2019 02:57:58 +00:00", JUNE),
            ("06/20/2019 02:57:58", JUNE),
            ("2019-06-20 02:57:58", JUNE),
            ("6/20/2019 4:57:58 AM +02:00", JUNE),
            ("1/16/2020 5:24:12 AM +00:00", Some(JANUARY + 5 * 3600 + 24 * 60 + 12)),
            ("1/16/2020 5:24:12 PM +00:00", Some(JANUARY + 17 * 3600 + 24 * 60 + 12)),
            ("1/16/2020 5:24:12 pm", Some(JANUARY + 17 * 3600 + 24 * 60 + 12)),
            (
                "1/16/2020 5:24:12\u{202f}PM +00:00",
                Some(JANUARY + 17 * 3600 + 24 * 60 + 12),
            ),
            ("1/16/2020 12:00:00 AM +00:00", Some(JANUARY)),
            ("1/16/2020 12:00:00 PM +00:00", Some(JANUARY + 12 * 3600)),
            ("1/16/2020 0:00:00", Some(JANUARY)),
        ] {
            assert_eq!(on(text), expected, "{text}");
        }
    }

    #[test]
    fn the_calendar_is_right() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1969-12-31T23:59:59Z", Some(0)), // past is past
            ("1970-01-01T00:00:00+01:00", Some(0)),
            ("2000-02-29T00:00:00Z", Some(951_782_400)),
            ("2000-03-01T00:00:00Z", Some(951_868_800)),
            ("2024-02-29T12:00:00Z", Some(1_709_208_000)),
            ("2100-03-01T00:00:00Z", Some(4_107_542_400)),
            ("9999-12-31T23:59:59Z", Some(LATEST)),
            ("9999-12-31T23:59:59-00:01", None),
            ("9999-12-31T23:59:60Z", None),
            ("2016-12-31T23:59:60Z", Some(1_483_228_800)), // a leap second
            ("2016-12-31T23:59:61Z", None),
            ("2023-02-29T00:00:00Z", None),
            ("2100-02-29T00:00:00Z", None),
            ("2024-02-30T00:00:00Z", None),
            ("2024-04-31T00:00:00Z", None),
            ("2024-00-10T00:00:00Z", None),
            ("2024-13-10T00:00:00Z", None),
            ("2024-10-00T00:00:00Z", None),
            ("2024-10-32T00:00:00Z", None),
            ("2024-10-18T24:00:00Z", None),
            ("2024-10-18T00:60:00Z", None),
            ("2024-10-18T00:00:00+24:00", None),
            ("2024-10-18T00:00:00+00:60", None),
            ("20/06/2019 02:57:58 +00:00", None), // day before month is nobody's form
            ("1/16/2020 13:24:12 PM +00:00", None),
            ("1/16/2020 0:24:12 AM +00:00", None),
        ] {
            assert_eq!(on(text), expected, "{text}");
        }
    }

    #[test]
    fn the_calendar_agrees_with_counting_days_one_by_one() {
        let mut day_number = 0;
        for year in 1970_i64..2405 {
            for month in 1..=12 {
                for day in 1..=31 {
                    if let Some(seconds) = moment((year, month, day), (0, 0, 0), 0) {
                        assert_eq!(seconds, day_number * 86_400, "{year}-{month}-{day}");
                        day_number += 1;
                    } else {
                        assert!(day > 28, "{year}-{month}-{day}");
                    }
                }
            }
        }
        assert_eq!(day_number, 435 * 365 + 106, "435 years, 106 of them leap years");
    }

    #[test]
    fn what_only_resembles_a_date_is_refused() {
        for text in [
            "2024-10-18",
            "2024-10-18T19:51Z",
            "2024-10-18T19:51:37.Z",
            "2024-10-18T19:51:37,5Z",
            "2024-10-18T19:51:37+0000",
            "2024-10-18T19:51:37+00",
            "2024-10-18T19:51:37 UTC",
            "2024-10-18T19:51:37ZZ",
            "2024-10-18T19:51:37Z and more",
            "2024-10-18  19:51:37",
            "2024-10-18_19:51:37",
            "2024-1-8T19:51:37Z",
            "+2024-10-18T19:51:37Z",
            "02024-10-18T19:51:37Z",
            "2024-10-18T9:51:37Z",
            "06/20/19 02:57:58",
            "06-20-2019 02:57:58",
            "06/20/2019",
            "06/20/2019 02:57",
            "06/20/2019 02:57:58 XM",
            "06/20/2019 02:57:58 A",
            "006/20/2019 02:57:58",
            "18 Oct 2024 19:51:37 GMT",
            "１１/20/2019 02:57:58",
            "unknown format",
        ] {
            assert_eq!(on(text), None, "{text}");
        }
    }

    #[test]
    fn the_three_http_date_forms_mean_the_same_moment() {
        const MOMENT: Option<u64> = Some(784_111_777);
        for (text, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", MOMENT),
            ("Sunday, 06-Nov-94 08:49:37 GMT", MOMENT),
            ("Sun Nov  6 08:49:37 1994", MOMENT),
            (" Sun, 06 Nov 1994 08:49:37 GMT ", MOMENT),
            ("Mon, 06 Nov 1994 08:49:37 GMT", MOMENT), // the day of the week is not checked
            ("Wed Nov 16 08:49:37 1994", Some(784_111_777 + 10 * 86_400)),
            ("Thursday, 01-Jan-70 00:00:00 GMT", Some(0)),
            ("Tuesday, 31-Dec-69 23:59:59 GMT", Some(3_155_759_999)), // 2069
            ("Sat, 31 Dec 2016 23:59:60 GMT", Some(1_483_228_800)),
            ("Sun, 22 Nov 3333 04:05:06 GMT", Some(FAR)),
            ("Fri, 30 Feb 2024 00:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 UTC", None),
            ("Sun, 06 Nov 1994 08:49:37 +0000", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT+1", None),
            ("Sun, 6 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 94 08:49:37 GMT", None),
            ("Sunday, 06-Nov-1994 08:49:37 GMT", None),
            ("Sun, 06-Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 nov 1994 08:49:37 GMT", None), // HTTP-date is case-sensitive
            ("Sun, 06 anF 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("Sun Nov 6 08:49:37 1994", None),
            ("Sun Nov  6 08:49:37 94", None),
            ("Su, 06 Nov 1994 08:49:37 GMT", None),
            (", 06 Nov 1994 08:49:37 GMT", None),
            ("Sun,", None),
            ("Sun", None),
            ("120", None),
            ("", None),
        ] {
            assert_eq!(http_date(text), expected, "{text:?}");
        }
    }
}
