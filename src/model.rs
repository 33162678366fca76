//! The rules of counters, without I/O: valid names, the effect of an increment, and [`State::apply`], the one function
//! that decides every operation. Stores only keep its results.

mod answer;
mod apply;
mod codec;
mod commit;
mod counters;
mod dedup;
mod extras;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hasher;
mod increment;
mod invalid;
mod name;
mod outcome;
mod request;
mod resume;
mod session;
mod sessions;
mod slot;
#[cfg(test)]
mod tests;
mod time;

pub use answer::{Answer, Decision, Effect, FailedIncrement, Position, Rejection};
pub use apply::{Bounds, State};
pub use codec::Corrupt;
pub use commit::{Batch, Changes, Commit, CounterChange, Head, Pack, SessionChange, Stamp};
#[cfg(test)]
pub(crate) use dedup::tests::{pack, pack_of};
pub use dedup::{ImportedIds, PackEntry};
pub use extras::check_extras;
pub use hasher::KeyedHasher;
pub use increment::{Applied, LimitError, Limits, OnLimit};
pub use invalid::Invalid;
pub use name::{MAX_NAME_BYTES, NameError, check_name, check_prefix, check_text, group, hash_name};
pub use outcome::Outcome;
pub use request::{
    Id, Increment, Increments, LowerBound, MAX_ID_BYTES, MAX_SKEW, Operation, Part, Predecessor,
    Record, Request, SessionId,
};
pub use resume::Resumed;
pub use session::{MAX_FAILURES, SESSION_WINDOW, Session};
pub use time::{Millis, date, duration};
