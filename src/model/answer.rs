//! Answers of a lane, and the encoding of those that it remembers.

use std::sync::Arc;

use super::codec::{Corrupt, Reader, put_i64, put_u64};
use super::extras;
use super::increment::{Applied, LimitError};
use super::invalid::Invalid;
use super::name::NameError;
use super::time::Millis;

/// The decision on a request: its answer, or its rejection.
pub type Decision = Result<Answer, Rejection>;

/// An answer, given now or earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The effect of the operation.
    pub done: Effect,
    /// The operation's position in the order.
    pub place: Position,
    /// Whether it was decided earlier, so that nothing was applied now.
    pub replayed: bool,
}

/// A position in the order of all operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// In the open batch. The revision is known once the batch is committed.
    InBatch(u32),
    /// In a committed batch.
    Revision(i64),
}

/// The effect of an operation. It is remembered with the request's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// An increment was applied.
    Incremented(Applied),
    /// All increments of a batch were applied.
    Batch(Arc<[Applied]>),
    /// A counter was set or deleted. This is its previous value.
    Replaced(i64),
    /// An increment failed, and nothing was changed. `index` is its index in a batch.
    Failed(FailedIncrement),
    /// Messages of a session are applied, except for the increments that failed. Not remembered with an id.
    Recorded {
        /// The last message that is applied.
        acknowledged: u64,
        /// The increments that failed, each with its message's sequence.
        failures: Vec<(u64, FailedIncrement)>,
    },
}

/// An increment that was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedIncrement {
    /// The index of the increment in its request or message.
    pub index: u32,
    /// The reason.
    pub refusal: LimitError,
}

/// The reason that a request was not executed. Rejections are not remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The id was used with other contents.
    IdReused,
    /// The id is too old to be remembered.
    TooOld {
        /// The id's time.
        time: Millis,
        /// Ids with times up to this may be forgotten.
        horizon: Millis,
        /// The lane's time; `None` if another node has decided and does not report it.
        now: Option<Millis>,
    },
    /// The id's time is too far ahead.
    FromFuture {
        /// The id's time.
        time: Millis,
        /// The lane's time.
        now: Millis,
    },
    /// The memory for ids and sessions is full.
    Full {
        /// The limit in bytes.
        max_bytes: u64,
        /// The time until some memory may be freed: a millisecond to an hour.
        retry_in: Millis,
    },
    /// A message before this one is missing.
    Gap {
        /// The number of the message that has to come next.
        expected: u64,
    },
    /// The client has confirmed this message already.
    Acknowledged {
        /// The last message that the client has confirmed.
        acknowledged: u64,
    },
    /// The message is beyond the window after the last confirmed one.
    BeyondWindow {
        /// The last message that the client has confirmed.
        acknowledged: u64,
    },
    /// The message arrived in this lane before its predecessor. It may be resent after that.
    Overtaken {
        /// The last message that is applied in the lane.
        applied: u64,
    },
    /// The client confirms an acknowledgement that was not given.
    SessionLost {
        /// The last message that was acknowledged.
        acknowledged: u64,
    },
    /// There are too many failures that the client has not confirmed.
    FailuresUnacknowledged {
        /// The number of these failures.
        failures: usize,
    },
    /// The session's row is damaged, so it is not known which messages are applied.
    SessionDamaged,
}

const INCREMENTED: u8 = 1;
const BATCH: u8 = 2;
const REPLACED: u8 = 3;
const FAILED: u8 = 4;
/// A flag beside the kind: fields of a later version follow the answer.
const HAS_EXTRAS: u8 = 0x80;

impl Effect {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Incremented(added) => {
                out.push(INCREMENTED);
                added.put(out);
            }
            Self::Batch(all) => {
                out.push(BATCH);
                put_u64(out, all.len() as u64);
                all.iter().for_each(|added| added.put(out));
            }
            Self::Replaced(before) => {
                out.push(REPLACED);
                put_i64(out, *before);
            }
            Self::Failed(failure) => {
                out.push(FAILED);
                failure.put(out);
            }
            Self::Recorded { .. } => unreachable!("sessions have no request ids"),
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        let kind = reader.u8()?;
        let done = match kind & !HAS_EXTRAS {
            INCREMENTED => Self::Incremented(Applied::read(reader)?),
            BATCH => {
                let count = reader.u64()?;
                let all: Result<Arc<[Applied]>, _> =
                    (0..count).map(|_| Applied::read(reader)).collect();
                Self::Batch(all?)
            }
            REPLACED => Self::Replaced(reader.i64()?),
            FAILED => Self::Failed(FailedIncrement::read(reader)?),
            _ => return Err(Corrupt("an answer of an unknown kind")),
        };
        if kind & HAS_EXTRAS != 0 {
            extras::skip(reader)?;
        }
        Ok(done)
    }
}

impl Applied {
    fn put(self, out: &mut Vec<u8>) {
        put_i64(out, self.value);
        put_i64(out, self.applied);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        Ok(Self {
            value: reader.i64()?,
            applied: reader.i64()?,
        })
    }
}

impl FailedIncrement {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let (kind, numbers) = match self.refusal {
            LimitError::Min { value, delta, min } => (1, [value, delta, min]),
            LimitError::Max { value, delta, max } => (2, [value, delta, max]),
            LimitError::OutOfRange { value, delta } => (3, [value, delta, 0]),
            LimitError::Invalid(Invalid::Limits { min, max }) => (4, [min, max, 0]),
            LimitError::Invalid(Invalid::OnLimit(number)) => (5, [number.into(), 0, 0]),
            LimitError::Invalid(Invalid::NotUtf8) => (6, [0, 0, 0]),
            LimitError::Invalid(Invalid::Name(error)) => match error {
                NameError::Empty => (7, [0, 0, 0]),
                NameError::TooLong { bytes, max } => (8, [bytes.into(), max.into(), 0]),
                NameError::Control { at } => (9, [at.into(), 0, 0]),
                NameError::EmptySegment { at } => (10, [at.into(), 0, 0]),
            },
        };
        out.push(kind);
        put_u64(out, self.index.into());
        for number in numbers {
            put_i64(out, number);
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        let kind = reader.u8()?;
        let index = reader.u32()?;
        let [a, b, c] = [reader.i64()?, reader.i64()?, reader.i64()?];
        let small = |number| u32::try_from(number).map_err(|_| Corrupt("a position is too large"));
        let name = |error| LimitError::Invalid(Invalid::Name(error));
        let refusal = match kind {
            1 => LimitError::Min {
                value: a,
                delta: b,
                min: c,
            },
            2 => LimitError::Max {
                value: a,
                delta: b,
                max: c,
            },
            3 => LimitError::OutOfRange { value: a, delta: b },
            4 => LimitError::Invalid(Invalid::Limits { min: a, max: b }),
            5 => {
                let number = i32::try_from(a).map_err(|_| Corrupt("a number is too large"))?;
                LimitError::Invalid(Invalid::OnLimit(number))
            }
            6 => LimitError::Invalid(Invalid::NotUtf8),
            7 => name(NameError::Empty),
            8 => name(NameError::TooLong {
                bytes: small(a)?,
                max: small(b)?,
            }),
            9 => name(NameError::Control { at: small(a)? }),
            10 => name(NameError::EmptySegment { at: small(a)? }),
            _ => return Err(Corrupt("a failure of an unknown kind")),
        };
        Ok(Self { index, refusal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A failure is read back exactly as its caller got it, with all numbers.
    #[test]
    fn failures_are_read_as_they_were_written() {
        let name = |error| LimitError::Invalid(Invalid::Name(error));
        let (value, delta) = (i64::MIN, i64::MAX);
        let refusals = [
            LimitError::Min {
                value,
                delta,
                min: -1,
            },
            LimitError::Max {
                value,
                delta,
                max: 1,
            },
            LimitError::OutOfRange { value, delta },
            LimitError::Invalid(Invalid::Limits { min: 2, max: 1 }),
            LimitError::Invalid(Invalid::OnLimit(i32::MIN)),
            LimitError::Invalid(Invalid::NotUtf8),
            name(NameError::Empty),
            name(NameError::TooLong {
                bytes: u32::MAX,
                max: 512,
            }),
            name(NameError::Control { at: 7 }),
            name(NameError::EmptySegment { at: 8 }),
        ];
        for refusal in refusals {
            let failed = Effect::Failed(FailedIncrement {
                index: u32::MAX,
                refusal,
            });
            let mut bytes = Vec::new();
            failed.put(&mut bytes);
            let mut reader = Reader(&bytes);
            assert_eq!(Effect::read(&mut reader), Ok(failed));
            assert!(reader.is_empty());
        }
    }
}
