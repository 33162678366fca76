//! Converts protobuf requests to requests of the lanes, with every field validated.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use prost_types::Timestamp;
use uuid::Uuid;
use uuid::fmt::Simple;

use super::error::Error;
use crate::model::{
    Id, Increments, Invalid, KeyedHasher, Limits, MAX_ID_BYTES, MAX_NAME_BYTES, Millis, NameError,
    OnLimit, Operation, Request, check_name, check_prefix, check_text, group,
};
use crate::proto::sum::v1 as proto;

/// Maximum number of increments in a batch, and of names in a read.
pub(crate) const MAX_BATCH: usize = 100;

/// Maximum number of violations in an error: it travels in headers, of which clients accept a few KiB.
const MAX_VIOLATIONS: usize = 8;

/// The violations of a request, field by field.
#[derive(Default)]
pub(crate) struct Violations(Vec<(String, String)>);

impl Violations {
    pub(crate) fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        if self.0.len() < MAX_VIOLATIONS {
            self.0.push((field.into(), problem.into()));
        }
    }

    /// Returns the value if there are no violations, or else the error with all of them.
    pub(crate) fn check<T>(self, value: T) -> Result<T, Error> {
        if self.0.is_empty() {
            return Ok(value);
        }
        Err(Error::Invalid(self.0))
    }

    pub(crate) fn name(&mut self, field: &str, name: &str) {
        if let Err(error) = check_name(name) {
            self.add(field, name_problem(&error));
        }
    }

    pub(crate) fn prefix(&mut self, prefix: &str) {
        if let Err(error) = check_prefix(prefix, MAX_NAME_BYTES) {
            self.add("prefix", error.to_string());
        }
    }

    /// Checks that a field has 1 to [`MAX_BATCH`] elements.
    pub(crate) fn count(&mut self, field: &str, count: usize) {
        if !(1..=MAX_BATCH).contains(&count) {
            let problem = format!("it has {count} elements; expected 1 to {MAX_BATCH}");
            self.add(field, problem);
        }
    }

    fn invalid(&mut self, within: &str, invalid: Invalid) {
        let (field, problem) = invalid_field(invalid);
        self.add(format!("{within}{field}"), problem);
    }

    pub(super) fn id(&mut self, field: &str, id: &str) {
        if let Err(error) = check_text(id, MAX_ID_BYTES) {
            self.add(field, error.to_string());
        }
    }

    /// The time of an id: that of a UUIDv7, because it never changes, or else the time in the request.
    pub(super) fn time(
        &mut self,
        field: &str,
        id: &str,
        beside: Option<&Timestamp>,
    ) -> Option<Millis> {
        let beside = beside.and_then(|time| {
            let millis = to_millis(time);
            if millis.is_none() {
                let problem = format!("{}s {}ns is not a valid time", time.seconds, time.nanos);
                self.add(field, problem);
            }
            millis
        });
        uuid_v7(id).map(|(_, time)| time).or(beside)
    }
}

fn name_problem(error: &NameError) -> String {
    format!("{error}; a name is a path of 1 to {MAX_NAME_BYTES} bytes such as acme/api-calls")
}

/// The invalid field of an increment, and the problem.
pub(crate) fn invalid_field(invalid: Invalid) -> (&'static str, String) {
    match invalid {
        Invalid::Name(error) => ("counter", name_problem(&error)),
        Invalid::NotUtf8 => ("counter", "it is not UTF-8".to_owned()),
        Invalid::Limits { min, max } => ("min", format!("it is {min}, which is above max ({max})")),
        Invalid::OnLimit(number) => (
            "on_limit",
            format!("it is {number}; expected ON_LIMIT_REJECT or ON_LIMIT_SATURATE"),
        ),
    }
}

pub(super) fn limits(min: Option<i64>, max: Option<i64>, on_limit: i32) -> Result<Limits, Invalid> {
    let on_limit = match proto::OnLimit::try_from(on_limit) {
        Ok(proto::OnLimit::Unspecified | proto::OnLimit::Reject) => OnLimit::Reject,
        Ok(proto::OnLimit::Saturate) => OnLimit::Saturate,
        Err(_) => return Err(Invalid::OnLimit(on_limit)),
    };
    match (min, max) {
        (Some(min), Some(max)) if min > max => Err(Invalid::Limits { min, max }),
        _ => Ok(Limits { min, max, on_limit }),
    }
}

/// Milliseconds since 1970. A valid `google.protobuf.Timestamp` is between the years 1 and 9999.
fn to_millis(time: &Timestamp) -> Option<Millis> {
    let nanos = u32::try_from(time.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    let seconds = (-62_135_596_800..=253_402_300_799).contains(&time.seconds);
    seconds.then(|| time.seconds * 1000 + i64::from(nanos / 1_000_000))
}

/// The times, from 2020 to 2100, with which a UUID of 32 digits without hyphens is taken for a UUIDv7. One in 64 hashes
/// of that length looks like one, with any time within nine thousand years.
const TIMES_OF_BARE_UUIDS: RangeInclusive<Millis> = 1_577_836_800_000..=4_102_444_800_000;

/// A UUIDv7 and its time, from any of its text forms (RFC 9562).
fn uuid_v7(id: &str) -> Option<(Uuid, Millis)> {
    let uuid = Uuid::try_parse(id).ok()?;
    let is_v7 = uuid.get_version_num() == 7 && uuid.get_variant() == uuid::Variant::RFC4122;
    let (seconds, nanos) = uuid.get_timestamp().filter(|_| is_v7)?.to_unix();
    let millis = Millis::try_from(seconds).ok()? * 1000 + Millis::from(nanos / 1_000_000);
    let is_bare = id.len() == Simple::LENGTH;
    (!is_bare || TIMES_OF_BARE_UUIDS.contains(&millis)).then_some((uuid, millis))
}

/// The canonical text of an id: all forms of a UUIDv7 are one id.
pub(super) fn canonical(id: &str) -> Cow<'_, str> {
    match uuid_v7(id) {
        Some((uuid, _)) => uuid.hyphenated().to_string().into(),
        None => id.into(),
    }
}

/// An id and its time, as received.
struct Named<'a> {
    id: &'a str,
    time: Option<&'a Timestamp>,
}

impl Named<'_> {
    /// Returns the request if it is valid.
    fn request(
        self,
        mut violations: Violations,
        operation: Operation,
        hasher: KeyedHasher,
    ) -> Result<Request, Error> {
        if self.id.is_empty() {
            // The client expects the request to count once, which needs a request_id.
            if self.time.is_some() {
                let problem = "it needs a request_id, which is missing";
                violations.add("request_time", problem);
            }
            return violations.check(Request {
                id: None,
                operation,
            });
        }
        violations.id("request_id", self.id);
        let time = violations.time("request_time", self.id, self.time);
        let id: Id = hasher.id(&canonical(self.id), time, &operation);
        violations.check(Request {
            id: Some(id),
            operation,
        })
    }
}

pub(super) fn increment(
    request: proto::IncrementCounterRequest,
    hasher: KeyedHasher,
) -> Result<Request, Error> {
    let mut violations = Violations::default();
    violations.name("counter", &request.counter);
    let limits = limits(request.min, request.max, request.on_limit)
        .map_err(|invalid| violations.invalid("", invalid))
        .unwrap_or_default();
    let named = Named {
        id: &request.request_id,
        time: request.request_time.as_ref(),
    };
    let increments = Increments::one(request.counter, request.delta, limits);
    named.request(violations, Operation::Increment(increments), hasher)
}

pub(super) fn batch(
    request: &proto::BatchIncrementCountersRequest,
    hasher: KeyedHasher,
) -> Result<Request, Error> {
    let mut violations = Violations::default();
    violations.count("increments", request.increments.len());
    let first = request.increments.first();
    let first = first.map_or("", |increment| group(&increment.counter));
    let mut increments = Increments::default();
    for (index, increment) in request.increments.iter().enumerate().take(MAX_BATCH) {
        let within = format!("increments[{index}].");
        violations.name(&format!("{within}counter"), &increment.counter);
        if group(&increment.counter) != first {
            let problem = "its group differs from that of the first increment";
            violations.add(format!("{within}counter"), problem);
        }
        match limits(increment.min, increment.max, increment.on_limit) {
            Ok(limits) => increments.push(&increment.counter, increment.delta, limits),
            Err(invalid) => violations.invalid(&within, invalid),
        }
    }
    let named = Named {
        id: &request.request_id,
        time: request.request_time.as_ref(),
    };
    named.request(violations, Operation::Batch(increments), hasher)
}

pub(super) fn set(
    request: &proto::SetCounterRequest,
    hasher: KeyedHasher,
) -> Result<Request, Error> {
    let mut violations = Violations::default();
    violations.name("counter", &request.counter);
    let named = Named {
        id: &request.request_id,
        time: request.request_time.as_ref(),
    };
    let operation = Operation::Set(request.counter.as_str().into(), request.value);
    named.request(violations, operation, hasher)
}

pub(super) fn delete(
    request: &proto::DeleteCounterRequest,
    hasher: KeyedHasher,
) -> Result<Request, Error> {
    let mut violations = Violations::default();
    violations.name("counter", &request.counter);
    let named = Named {
        id: &request.request_id,
        time: request.request_time.as_ref(),
    };
    let operation = Operation::Delete(request.counter.as_str().into());
    named.request(violations, operation, hasher)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "019adc1b-7a00-7abc-8def-0123456789ab";
    const TIME: Millis = 0x019a_dc1b_7a00;

    /// Every text form of a UUIDv7 carries its time, and all forms are one id.
    #[test]
    fn forms_of_a_uuid_are_one_id() {
        let bare = UUID.replace('-', "");
        for form in [
            UUID,
            &UUID.to_uppercase(),
            &bare,
            &bare.to_uppercase(),
            &format!("{{{UUID}}}"),
            &format!("urn:uuid:{UUID}"),
        ] {
            assert_eq!(uuid_v7(form).map(|(_, time)| time), Some(TIME), "{form}");
            assert_eq!(canonical(form), UUID);
        }
    }

    /// An id that is no UUIDv7 is its text, and has no time of its own.
    #[test]
    fn other_ids_are_their_text() {
        let hash = UUID.replace('-', "").replacen("019a", "919a", 1);
        for id in [
            // Version 4, and a variant other than that of RFC 9562.
            "019ADC1B-7a00-4abc-8def-0123456789ab",
            "019ADC1B-7a00-7abc-0def-0123456789ab",
            // A hash with the digits of version 7 by chance.
            &hash,
            // A digit too few, and one too many.
            &UUID[1..],
            &format!("{UUID}0"),
            "order 7",
            "",
        ] {
            assert_eq!(uuid_v7(id), None, "{id}");
            assert_eq!(canonical(id), id);
        }
    }
}
