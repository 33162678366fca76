//! `sum.v1.CounterService`: running totals.
//!
//! Changes go to the [lane](crate::lane) and reads to the [store](crate::store); this room says both in gRPC's terms.

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
