//! `sumd` adds numbers for other programs, over gRPC.
//!
//! Users see the binary, and `proto/` is its contract. This library holds the parts of the binary, for its own tests
//! and benchmarks. Imports point down the floors: [`sum::wire`] knows nothing of gRPC, the services nothing of the
//! server, the server nothing of the command line.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod api;
pub mod backoff;
pub mod cli;
pub mod cluster;
pub mod codec;
pub mod config;
pub mod counters;
pub mod etcd;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod lane;
mod layers;
pub mod maintenance;
pub mod model;
pub mod notice;
pub mod proto;
mod ranged;
pub mod replies;
pub mod server;
pub mod status;
pub mod store;
pub mod sum;
pub mod telemetry;
