//! `sum.v1.SumService`: exact sums of integers.
//!
//! The three methods are one machine: the request's bytes go by once, [`messages`] cuts them at message
//! ends and [`wire`] adds what is in them. So no request is ever held in memory, and the generated
//! server code, which decodes whole messages, is not used; the generated messages and clients are.

mod error;
mod messages;
mod response;
mod service;
pub mod wire;

pub use service::{Method, SumService};
