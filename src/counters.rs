//! `sum.v1.CounterService`: running totals.
//!
//! Writes go to the [lanes](crate::lane), reads to the [store](crate::store). This module converts requests and
//! answers.

mod convert;
mod copies;
mod error;
mod operation;
mod page_token;
mod peers;
mod read;
mod record;
mod refusal;
mod service;
mod stale;
mod watch;
mod wire;

pub use peers::{Executor, Forwarder};
pub use record::reassembly;
pub use service::Counters;
