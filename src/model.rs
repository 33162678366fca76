//! The rules of counters, without I/O: what a name is, what an increment does, and the one function that
//! decides every operation ([`State::apply`]). A store only keeps what comes out of it.

mod answer;
mod apply;
mod codec;
mod commit;
mod counters;
mod digests;
mod extras;
mod ids;
mod increment;
mod moved;
mod name;
mod request;
mod resume;
mod session;
mod sessions;
#[cfg(test)]
mod tests;
mod time;

pub use answer::{Answer, Done, Failure, Invalid, Outcome, Place, Refusal, Refused};
pub use apply::{Bounds, State};
pub use codec::Corrupt;
pub use commit::{Batch, Changes, Commit, CounterChange, Head, Pack, SessionChange, Stamp};
pub use digests::Digests;
pub use extras::check_extras;
#[cfg(test)]
pub(crate) use ids::tests::pack;
pub use ids::{Before, PackEntry};
pub use increment::{Added, Limits, OnLimit};
pub use name::{MAX_NAME_BYTES, NameError, check_name, check_prefix, check_text, group};
pub use request::{
    Follows, Id, Increment, Increments, LowerBound, MAX_ID_BYTES, MAX_SKEW, Millis, Operation,
    Part, Record, Request, SessionId, hash_name,
};
pub use resume::Resumed;
pub use session::{MAX_FAILURES, SESSION_WINDOW, Session};
pub use time::{date, duration};
