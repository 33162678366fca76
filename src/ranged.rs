//! Options whose values have a range. One parser checks a value, and names the range in help and in errors.

use std::ffi::OsStr;
use std::fmt;
use std::iter;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command, Error};

/// A year as `1year` is parsed: 365.25 days. Timers cannot take every duration.
pub const YEAR: Duration = Duration::from_hours(8766);

/// The parser of an option with a range.
#[derive(Clone)]
pub struct Ranged<T> {
    /// The name of a value's kind, with its article.
    kind: &'static str,
    range: RangeInclusive<T>,
    /// Values as people write them, after a comma.
    examples: &'static str,
    read: fn(&str) -> Option<T>,
    write: fn(&T) -> String,
}

/// Numbers in a range.
pub fn number<T: FromStr + ToString>(range: RangeInclusive<T>) -> Ranged<T> {
    Ranged {
        kind: "a number",
        range,
        examples: "",
        read: |text| text.parse().ok(),
        write: T::to_string,
    }
}

/// Octal numbers in a range, such as the modes of files.
pub fn octal(range: RangeInclusive<u32>) -> Ranged<u32> {
    Ranged {
        kind: "an octal number",
        range,
        examples: ", like 660",
        read: |text| {
            let is_octal = text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
            u32::from_str_radix(text, 8).ok().filter(|_| is_octal)
        },
        write: |number| format!("{number:o}"),
    }
}

/// Sizes in a range of bytes.
pub fn size<T: TryFrom<u64> + Into<u64> + Copy>(range: RangeInclusive<T>) -> Ranged<T> {
    Ranged {
        kind: "a size",
        range,
        examples: ", like 64KiB or 16MiB",
        read: |text| {
            let size = text.parse::<ByteSize>().ok()?;
            size.as_u64().try_into().ok()
        },
        write: |&size| in_units(size.into()),
    }
}

/// Times in a range. `M` is refused: it means a month, but most people who write it mean a minute.
pub fn time(range: RangeInclusive<Duration>) -> Ranged<Duration> {
    Ranged {
        kind: "a time",
        range,
        examples: ", like 500ms, 10s or 10m",
        read: |text| {
            let time = humantime::parse_duration(text).ok();
            time.filter(|_| !text.contains('M'))
        },
        write: |&time| humantime::format_duration(time).to_string(),
    }
}

/// A number of bytes, exactly, in the largest unit in which it is a whole number.
fn in_units(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let is_whole = |(bits, _): &(u32, &str)| bytes >> bits << bits == bytes && bytes > 0;
    match units.into_iter().find(is_whole) {
        Some((bits, unit)) => format!("{}{unit}", bytes >> bits),
        None => format!("{bytes}B"),
    }
}

impl<T: PartialOrd> Ranged<T> {
    /// Parses a value in the range.
    ///
    /// # Errors
    /// Returns a description of the values in the range if it is none of them.
    pub fn parse(&self, text: &str) -> Result<T, String> {
        let value = (self.read)(text).filter(|value| self.range.contains(value));
        value.ok_or_else(|| format!("expected {self}"))
    }

    fn bounds(&self) -> [String; 2] {
        [self.range.start(), self.range.end()].map(self.write)
    }
}

impl<T: PartialOrd> fmt::Display for Ranged<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, max] = self.bounds();
        write!(f, "{} from {min} to {max}{}", self.kind, self.examples)
    }
}

impl<T: PartialOrd + Clone + Send + Sync + 'static> TypedValueParser for Ranged<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let ranged = self.clone();
        let parse = move |text: &str| ranged.parse(text);
        parse.parse_ref(command, arg, value)
    }

    /// The range, for the help.
    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        // clap puts quotes around a value with spaces.
        let range = self.bounds().join("..");
        Some(Box::new(iter::once(PossibleValue::new(range))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bounds belong to the range, and nothing beside it does. The error names them.
    #[test]
    fn ranges_include_their_bounds() {
        let workers = number(1..=4096_u32);
        assert_eq!(
            (workers.parse("1"), workers.parse("4096")),
            (Ok(1), Ok(4096))
        );
        for text in ["", "0", "4097", "-1", "1.5", "many", "99999999999999999999"] {
            let error = workers.parse(text).expect_err(text);
            assert_eq!(error, "expected a number from 1 to 4096");
        }
        let modes = octal(0..=0o777);
        assert_eq!((modes.parse("0"), modes.parse("777")), (Ok(0), Ok(0o777)));
        for text in ["", "1000", "8", "+7", "rw"] {
            let error = modes.parse(text).expect_err(text);
            assert_eq!(error, "expected an octal number from 0 to 777, like 660");
        }
    }

    #[test]
    fn times_are_what_they_look_like() {
        let times = time(Duration::from_secs(1)..=YEAR);
        for (text, time) in [
            ("1s", Duration::from_secs(1)),
            ("10m", Duration::from_mins(10)),
            ("1day", Duration::from_hours(24)),
            ("1year", YEAR),
        ] {
            assert_eq!(times.parse(text), Ok(time));
        }
        for text in [
            "",
            "10",
            "10M",
            "0s",
            "999ms",
            "-1s",
            "2years",
            "99999999999999999999s",
        ] {
            let error = times.parse(text).expect_err(text);
            let expected = "expected a time from 1s to 1year, like 500ms, 10s or 10m";
            assert_eq!(error, expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let sizes = size(1_u64 << 16..=1 << 40);
        assert_eq!(sizes.parse("64KiB"), Ok(1 << 16));
        assert_eq!(sizes.parse("1TiB"), Ok(1 << 40));
        for text in [
            "",
            "256",
            "many",
            "-1MiB",
            "0",
            "2TiB",
            "99999999999999999999GiB",
            "MiB",
        ] {
            let error = sizes.parse(text).expect_err(text);
            let expected = "expected a size from 64KiB to 1TiB, like 64KiB or 16MiB";
            assert_eq!(error, expected, "{text:?}");
        }
        let windows = size((64 << 10) - 1..=u32::MAX);
        let error = windows.parse("5GiB").expect_err("too large");
        let expected = "expected a size from 65535B to 4294967295B, like 64KiB or 16MiB";
        assert_eq!(error, expected);
    }

    /// A bound is named as it can be written.
    #[test]
    fn bounds_can_be_written() {
        for bytes in [
            0,
            1,
            1023,
            1 << 10,
            (1 << 24) - 1,
            3 << 20,
            1 << 30,
            5 << 40,
        ] {
            let written = in_units(bytes);
            let read = written.parse::<ByteSize>().expect(&written);
            assert_eq!(read.as_u64(), bytes, "{written}");
        }
    }
}
