//! IMF-fixdate, the one form in which HTTP dates are sent (RFC 9110 section 5.6.7).

/// Writes a Unix time as IMF-fixdate, such as `Sun, 06 Nov 1994 08:49:37 GMT`.
///
/// The form has four digits for the year, so times after the year 9999 give its last second.
#[must_use]
pub fn http_date(unix_seconds: u64) -> [u8; 29] {
    let seconds = unix_seconds.min(UNIX_SECONDS_MAX);
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    // 1 January 1970 was a Thursday, day 4 of a week that starts on Sunday.
    let weekday = (days + 4) % 7;

    let mut text = *b"Sun, 06 Nov 1994 08:49:37 GMT";
    text[0..3].copy_from_slice(WEEKDAYS[weekday as usize]);
    text[5..7].copy_from_slice(&two_digits(day));
    text[8..11].copy_from_slice(MONTHS[month as usize]);
    text[12..14].copy_from_slice(&two_digits(year / 100));
    text[14..16].copy_from_slice(&two_digits(year % 100));
    text[17..19].copy_from_slice(&two_digits(second_of_day / 3600));
    text[20..22].copy_from_slice(&two_digits(second_of_day / 60 % 60));
    text[23..25].copy_from_slice(&two_digits(second_of_day % 60));
    text
}

/// Year, month (0 to 11) and day (1 to 31) of the given day since 1 January 1970.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // Count in years that start on 1 March, so that the leap day is the last of its year, from
    // 1 March 0000, where the 400-year cycle of the Gregorian calendar starts.
    let days = days + DAYS_TO_UNIX_EPOCH;
    let (cycle, day_of_cycle) = (days / DAYS_PER_CYCLE, days % DAYS_PER_CYCLE);
    // Take out the leap days that have passed, and 365 divides the rest evenly.
    let leap_days = day_of_cycle / 1_460 - day_of_cycle / 36_524 + day_of_cycle / 146_096;
    let year_of_cycle = (day_of_cycle - leap_days) / 365;
    let day_of_year =
        day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // From March on, months repeat in groups of five with 153 days.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = 400 * cycle + year_of_cycle + u64::from(month < 2);
    (year, month, day)
}

/// The two decimal digits of a number below 100.
fn two_digits(number: u64) -> [u8; 2] {
    debug_assert!(number < 100);
    [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]
}

/// 31 December 9999, 23:59:59.
const UNIX_SECONDS_MAX: u64 = 253_402_300_799;
/// From 1 March 0000 to 1 January 1970.
const DAYS_TO_UNIX_EPOCH: u64 = 719_468;
/// The days of 400 Gregorian years.
const DAYS_PER_CYCLE: u64 = 146_097;
const WEEKDAYS: [&[u8; 3]; 7] = [b"Sun", b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat"];
const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_known_dates() {
        // From `date -u -d @N`, and the example of RFC 9110 section 5.6.7.
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (253_402_300_800, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(str::from_utf8(&http_date(seconds)), Ok(text), "{seconds}");
        }
    }

    #[test]
    fn civil_dates_count_every_day_once() {
        // Walk 430 years with the plain rules of the calendar beside the arithmetic.
        let (mut year, mut month, mut day) = (1970, 0, 1);
        for days in 0..430 * 365 {
            assert_eq!(civil_date(days), (year, month, day), "day {days}");
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let february = if leap { 29 } else { 28 };
            let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            day += 1;
            if day > lengths[month as usize] {
                (month, day) = (month + 1, 1);
            }
            if month == 12 {
                (year, month) = (year + 1, 0);
            }
        }
    }
}
