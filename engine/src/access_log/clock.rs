//! Moments as calendar fields, computed once a second.
//!
//! A busy shard writes many lines within one second, and only the fraction differs between them.
//! UTC needs arithmetic only; local time asks the C library, which knows the host's zone.

use std::ops::Range;

use outrigger_xds::snapshot::TimePart;

/// Turns nanoseconds since the epoch into text, remembering the last second it saw.
#[derive(Debug)]
pub(crate) struct Clock {
    utc: Civil,
    local: Civil,
    last: Rendered,
}

/// The text written last.
#[derive(Debug)]
struct Rendered {
    text: Vec<u8>,
    /// The parts it was written from, as their address; 0 is none.
    parts: usize,
    /// The moments for which it is the text.
    valid: Range<u64>,
}

impl Clock {
    /// A clock that has seen nothing yet.
    pub(crate) fn new() -> Clock {
        let last = Rendered { text: Vec::new(), parts: 0, valid: 0..0 };
        Clock { utc: Civil::utc(0), local: Civil::local(0), last }
    }

    /// As [`Clock::write`], quicker while the text stays the same.
    ///
    /// Text is remembered by the address of `parts`: before parts at an address can have changed,
    /// the caller calls [`Clock::forget`].
    pub(crate) fn write_again(
        &mut self,
        wall_ns: u64,
        local: bool,
        parts: &[TimePart],
        out: &mut Vec<u8>,
    ) {
        let address = parts.as_ptr().addr();
        if self.last.parts != address || !self.last.valid.contains(&wall_ns) {
            let mut text = std::mem::take(&mut self.last.text);
            text.clear();
            self.write(wall_ns, local, parts, &mut text);
            let grain = parts.iter().map(grain).min().unwrap_or(NANOS_PER_SECOND);
            let start = wall_ns - wall_ns % grain;
            self.last =
                Rendered { text, parts: address, valid: start..start.saturating_add(grain) };
        }
        out.extend_from_slice(&self.last.text);
    }

    /// Makes [`Clock::write_again`] begin anew.
    pub(crate) fn forget(&mut self) {
        self.last.parts = 0;
    }

    /// Writes the moment `wall_ns` as `parts` say.
    pub(crate) fn write(
        &mut self,
        wall_ns: u64,
        local: bool,
        parts: &[TimePart],
        out: &mut Vec<u8>,
    ) {
        let second = wall_ns / NANOS_PER_SECOND;
        let nanos = (wall_ns % NANOS_PER_SECOND) as u32;
        let civil = if local {
            if self.local.epoch != second {
                self.local = Civil::local(second);
            }
            &self.local
        } else {
            if self.utc.epoch != second {
                self.utc = Civil::utc(second);
            }
            &self.utc
        };
        for part in parts {
            civil.write(nanos, part, out);
        }
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

/// One second on the calendar.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Civil {
    epoch: u64,
    year: u32,
    /// 1..=12
    month: u32,
    /// 1..=31
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    /// Sunday is 0.
    weekday: u32,
    /// 1..=366
    day_of_year: u32,
    /// East of Greenwich.
    offset_seconds: i32,
    /// Padded with NUL.
    zone: [u8; 8],
}

impl Civil {
    fn utc(epoch: u64) -> Civil {
        let days = epoch / SECONDS_PER_DAY;
        let of_day = (epoch % SECONDS_PER_DAY) as u32;
        // Years that begin in March, so that a leap day is the last of its year; 400 years (an era)
        // repeat exactly. Day 0 of era 0 is 0000-03-01, 719468 days before the epoch.
        let shifted = days + 719_468;
        let era = shifted / DAYS_PER_ERA;
        let of_era = shifted % DAYS_PER_ERA;
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let leap =
            (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
        let january_first = match month {
            1 | 2 => of_year - 306,
            _ => of_year + 59 + u64::from(leap),
        };
        Civil {
            epoch,
            year: year as u32,
            month: month as u32,
            day: day as u32,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            weekday: ((days + 4) % 7) as u32,
            day_of_year: january_first as u32 + 1,
            offset_seconds: 0,
            zone: *b"UTC\0\0\0\0\0",
        }
    }

    fn local(epoch: u64) -> Civil {
        let Ok(time) = libc::time_t::try_from(epoch) else { return Civil::utc(epoch) };
        // SAFETY: all-zero bytes are a valid `tm`: integers, and a null zone pointer.
        let mut tm: libc::tm = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live, properly aligned locals; localtime_r is thread-safe.
        if unsafe { libc::localtime_r(&time, &mut tm) }.is_null() {
            return Civil::utc(epoch);
        }
        let mut zone = [0; 8];
        if !tm.tm_zone.is_null() {
            // SAFETY: the C library points tm_zone at a NUL-terminated name that it keeps for the
            // life of the process.
            let name = unsafe { std::ffi::CStr::from_ptr(tm.tm_zone) };
            for (to, from) in zone.iter_mut().zip(name.to_bytes()) {
                *to = *from;
            }
        }
        Civil {
            epoch,
            year: (tm.tm_year + 1900) as u32,
            month: tm.tm_mon as u32 + 1,
            day: tm.tm_mday as u32,
            hour: tm.tm_hour as u32,
            minute: tm.tm_min as u32,
            second: tm.tm_sec as u32,
            weekday: tm.tm_wday as u32,
            day_of_year: tm.tm_yday as u32 + 1,
            offset_seconds: i32::try_from(tm.tm_gmtoff).unwrap_or(0),
            zone,
        }
    }

    fn write(&self, nanos: u32, part: &TimePart, out: &mut Vec<u8>) {
        match part {
            TimePart::Literal(text) => out.extend_from_slice(text.as_bytes()),
            TimePart::Year => {
                two(out, self.year / 100);
                two(out, self.year % 100);
            }
            TimePart::YearOfCentury => two(out, self.year % 100),
            TimePart::Century => two(out, self.year / 100),
            TimePart::Month => two(out, self.month),
            TimePart::MonthShort => out.extend_from_slice(&self.month_name().as_bytes()[..3]),
            TimePart::MonthLong => out.extend_from_slice(self.month_name().as_bytes()),
            TimePart::Day => two(out, self.day),
            TimePart::DaySpaced => {
                out.push(if self.day < 10 { b' ' } else { b'0' + (self.day / 10) as u8 });
                out.push(b'0' + (self.day % 10) as u8);
            }
            TimePart::DayOfYear => {
                out.push(b'0' + (self.day_of_year / 100) as u8);
                two(out, self.day_of_year % 100);
            }
            TimePart::WeekdayShort => out.extend_from_slice(&self.weekday_name().as_bytes()[..3]),
            TimePart::WeekdayLong => out.extend_from_slice(self.weekday_name().as_bytes()),
            TimePart::WeekdayFromMonday => {
                out.push(b'0' + if self.weekday == 0 { 7 } else { self.weekday as u8 });
            }
            TimePart::WeekdayFromSunday => out.push(b'0' + self.weekday as u8),
            TimePart::Hour => two(out, self.hour),
            TimePart::Hour12 => two(out, (self.hour + 11) % 12 + 1),
            TimePart::AmPm => out.extend_from_slice(if self.hour < 12 { b"AM" } else { b"PM" }),
            TimePart::Minute => two(out, self.minute),
            TimePart::Second => two(out, self.second),
            TimePart::Fraction(digits) => fraction(out, nanos, usize::from(*digits)),
            TimePart::EpochSeconds => decimal(out, self.epoch),
            TimePart::SecondFull => {
                two(out, self.second);
                if nanos > 0 {
                    out.push(b'.');
                    fraction(out, nanos, FRACTION_DIGITS);
                    while out.last() == Some(&b'0') {
                        out.pop();
                    }
                }
            }
            TimePart::ZoneOffset => self.offset(out, false),
            TimePart::ZoneOffsetColon => self.offset(out, true),
            TimePart::ZoneName => out.extend(self.zone.iter().take_while(|&&byte| byte != 0)),
        }
    }

    fn offset(&self, out: &mut Vec<u8>, colon: bool) {
        out.push(if self.offset_seconds < 0 { b'-' } else { b'+' });
        let minutes = self.offset_seconds.unsigned_abs() / 60;
        two(out, minutes / 60);
        if colon {
            out.push(b':');
        }
        two(out, minutes % 60);
    }

    fn month_name(&self) -> &'static str {
        MONTHS[(self.month as usize + 11) % 12]
    }

    fn weekday_name(&self) -> &'static str {
        WEEKDAYS[self.weekday as usize % 7]
    }
}

/// How many nanoseconds a part's text holds for, at least.
fn grain(part: &TimePart) -> u64 {
    match part {
        TimePart::SecondFull => 1,
        TimePart::Fraction(digits) => {
            10u64.pow((FRACTION_DIGITS as u32).saturating_sub((*digits).into()))
        }
        _ => NANOS_PER_SECOND,
    }
}

/// Appends `n` in decimal.
pub(super) fn decimal(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Appends the last two digits of `n`.
fn two(out: &mut Vec<u8>, n: u32) {
    out.extend_from_slice(&[b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8]);
}

/// Appends the first `digits` (1..=9) of a fraction of a second.
fn fraction(out: &mut Vec<u8>, nanos: u32, digits: usize) {
    let mut text = [b'0'; FRACTION_DIGITS];
    let mut rest = nanos;
    for digit in text.iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&text[..digits.min(FRACTION_DIGITS)]);
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const SECONDS_PER_DAY: u64 = 86_400;
const DAYS_PER_ERA: u64 = 146_097;
const FRACTION_DIGITS: usize = 9;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

#[cfg(test)]
mod tests {
    use super::*;

    fn date(epoch: u64) -> (u32, u32, u32, u32, u32) {
        let civil = Civil::utc(epoch);
        (civil.year, civil.month, civil.day, civil.weekday, civil.day_of_year)
    }

    #[test]
    fn dates_around_leap_days_and_ends_of_years() {
        assert_eq!(date(0), (1970, 1, 1, 4, 1));
        assert_eq!(date(951_782_400), (2000, 2, 29, 2, 60));
        assert_eq!(date(951_868_800), (2000, 3, 1, 3, 61));
        assert_eq!(date(978_220_800), (2000, 12, 31, 0, 366));
        assert_eq!(date(1_709_164_800), (2024, 2, 29, 4, 60));
        assert_eq!(date(1_795_223_819), (2026, 11, 21, 6, 325));
        assert_eq!(date(4_107_542_400), (2100, 3, 1, 1, 60));
    }

    #[test]
    fn every_day_of_two_centuries_follows_the_one_before() {
        let mut previous = Civil::utc(0);
        for day in 1..73_000 {
            let civil = Civil::utc(day * SECONDS_PER_DAY);
            let next_day = (civil.month, civil.day) == (previous.month, previous.day + 1);
            let next_month = (civil.month, civil.day) == (previous.month + 1, 1);
            let next_year = (civil.year, civil.month, civil.day) == (previous.year + 1, 1, 1);
            assert!(next_day || next_month || next_year, "{civil:?}");
            assert_eq!(civil.weekday, (previous.weekday + 1) % 7);
            let day_of_year = if next_year { 1 } else { previous.day_of_year + 1 };
            assert_eq!(civil.day_of_year, day_of_year);
            previous = civil;
        }
    }

    #[test]
    fn local_time_agrees_with_utc_shifted_by_its_offset() {
        let epoch = 1_795_223_819;
        let local = Civil::local(epoch);
        let shifted = Civil::utc(epoch.saturating_add_signed(i64::from(local.offset_seconds)));
        assert_eq!((local.day, local.hour), (shifted.day, shifted.hour));
        assert_eq!((local.minute, local.second), (shifted.minute, shifted.second));
        assert_eq!((local.weekday, local.day_of_year), (shifted.weekday, shifted.day_of_year));
    }

    #[test]
    fn parts_are_written_as_strftime_does() {
        let wall_ns = 1_795_223_819_134_481_000;
        let write = |parts: &[TimePart]| {
            let mut out = Vec::new();
            Clock::new().write(wall_ns, false, parts, &mut out);
            String::from_utf8(out).unwrap()
        };
        let cases: [(&[TimePart], &str); 14] = [
            (&[TimePart::Year, TimePart::Month, TimePart::Day], "20261121"),
            (&[TimePart::Hour, TimePart::Minute, TimePart::Second], "011659"),
            (&[TimePart::Fraction(3)], "134"),
            (&[TimePart::Fraction(6)], "134481"),
            (&[TimePart::Fraction(9)], "134481000"),
            (&[TimePart::SecondFull], "59.134481"),
            (&[TimePart::EpochSeconds], "1795223819"),
            (&[TimePart::ZoneOffset, TimePart::ZoneOffsetColon], "+0000+00:00"),
            (&[TimePart::ZoneName], "UTC"),
            (&[TimePart::MonthShort, TimePart::MonthLong], "NovNovember"),
            (&[TimePart::WeekdayShort, TimePart::WeekdayLong], "SatSaturday"),
            (&[TimePart::Hour12, TimePart::AmPm, TimePart::DaySpaced], "01AM21"),
            (&[TimePart::DayOfYear, TimePart::Century, TimePart::YearOfCentury], "3252026"),
            (&[TimePart::WeekdayFromMonday, TimePart::WeekdayFromSunday], "66"),
        ];
        for (parts, expected) in cases {
            assert_eq!(write(parts), expected, "{parts:?}");
        }
    }

    #[test]
    fn remembered_text_is_what_would_be_written() {
        let formats: [&[TimePart]; 4] = [
            &[TimePart::Second],
            &[TimePart::Second, TimePart::Fraction(3)],
            &[TimePart::Fraction(9)],
            &[TimePart::SecondFull],
        ];
        let mut clock = Clock::new();
        for wall_ns in (1_000_000_000u64..).step_by(333_333).take(10_000) {
            for parts in [formats[wall_ns as usize % 4], formats[1]] {
                let (mut again, mut anew) = (Vec::new(), Vec::new());
                clock.write_again(wall_ns, false, parts, &mut again);
                Clock::new().write(wall_ns, false, parts, &mut anew);
                assert_eq!(again, anew);
            }
        }
    }

    #[test]
    fn the_cache_follows_the_time() {
        let mut clock = Clock::new();
        let parts = [TimePart::Second, TimePart::Fraction(1)];
        let mut out = Vec::new();
        for wall_ns in [1_900_000_000, 2_000_000_000, 1_000_000_000] {
            clock.write(wall_ns, false, &parts, &mut out);
        }
        assert_eq!(out, b"019020010");
    }
}
