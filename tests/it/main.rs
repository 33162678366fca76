//! Tests of sumd from the outside: through its port, its command line and its signals.

mod calls;
mod cluster;
mod counters;
mod crash;
mod damage;
mod documents;
mod etcd;
mod faults;
mod formats;
mod hostile;
mod imports;
mod limits;
mod listeners;
mod logging;
mod output;
mod polyglot;
mod power;
mod process;
mod reasons;
mod recipes;
mod shutdown;
mod simulation;
mod stores;
mod support;
mod transfer;
