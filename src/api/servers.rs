//! The generated servers and their traits.
#![allow(missing_docs, clippy::pedantic, clippy::doc_lazy_continuation)]

include!(concat!(env!("OUT_DIR"), "/servers/sum.v1.rs"));
include!(concat!(env!("OUT_DIR"), "/servers/sumd.cluster.v1.rs"));
