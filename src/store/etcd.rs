//! Counters in an etcd cluster: so far, the client that they will be kept with.

pub mod client;
