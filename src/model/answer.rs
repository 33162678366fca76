//! What a lane answers, and how the answers that it has to remember are stored.

use std::sync::Arc;

use super::codec::{Corrupt, Reader, put_i64, put_u64};
use super::extras;
use super::increment::{Applied, LimitError};
use super::invalid::Invalid;
use super::name::NameError;
use super::time::Millis;

/// What became of a request.
pub type Decision = Result<Answer, Rejection>;

/// A decision, made now or earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was decided.
    pub done: Effect,
    /// Where in the order.
    pub place: Position,
    /// It was decided earlier, for the same id.
    pub replayed: bool,
}

/// A place in the order of all operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// In the batch that is being made: the revision is known once that is committed.
    InBatch(u32),
    /// Committed.
    Revision(i64),
}

/// What was decided. These are remembered with an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// An increment was made.
    Incremented(Applied),
    /// All increments of a batch were made.
    Batch(Arc<[Applied]>),
    /// A counter was set or deleted; its value before.
    Replaced(i64),
    /// An increment passed a limit, and nothing was changed. In a batch `index` tells which.
    Failed(FailedIncrement),
    /// A session's messages are applied, and these increments were not made. Not remembered with an id.
    Recorded {
        /// Up to which message.
        acknowledged: u64,
        /// With the message's sequence.
        failures: Vec<(u64, FailedIncrement)>,
    },
}

/// An increment that was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedIncrement {
    /// Which of several.
    pub index: u32,
    /// Why.
    pub refusal: LimitError,
}

/// Why a request was not carried out. None of these is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The id was used with other contents.
    IdReused,
    /// The id is from before what is remembered.
    TooOld {
        /// The id's time.
        time: Millis,
        /// Ids up to this time are forgotten.
        horizon: Millis,
        /// The lane's, unless another node has decided that does not tell.
        now: Option<Millis>,
    },
    /// The id's time is too far ahead.
    FromFuture {
        /// The id's time.
        time: Millis,
        /// The lane's.
        now: Millis,
    },
    /// There is no room to remember more.
    Full {
        /// How much there is room for.
        max_bytes: u64,
        /// When some may be given back: a millisecond to an hour.
        retry_in: Millis,
    },
    /// A message before this one is missing.
    Gap {
        /// The one that comes next.
        expected: u64,
    },
    /// The client has said that it knows this message is acknowledged.
    Acknowledged {
        /// What it said.
        acknowledged: u64,
    },
    /// The message is further ahead of what the client knows acknowledged than it may be.
    BeyondWindow {
        /// The number up to which the client knows messages acknowledged.
        acknowledged: u64,
    },
    /// A message is ahead of the one that it follows in this lane. It may be sent again, behind that.
    Overtaken {
        /// The last message that was applied there.
        applied: u64,
    },
    /// The client knows an acknowledgement that was not given.
    SessionLost {
        /// What was.
        acknowledged: u64,
    },
    /// There are failures that the client has not said it knows.
    FailuresUnacknowledged {
        /// How many.
        failures: usize,
    },
    /// The session's row is damaged: which of its messages are applied cannot be told.
    SessionDamaged,
}

const INCREMENTED: u8 = 1;
const BATCH: u8 = 2;
const REPLACED: u8 = 3;
const FAILED: u8 = 4;
/// Beside the kind: behind the answer are fields of a later version.
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
            _ => return Err(Corrupt("an answer of no known kind")),
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
            _ => return Err(Corrupt("a failure of no known kind")),
        };
        Ok(Self { index, refusal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A failure is remembered as its caller was told, to the number.
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
