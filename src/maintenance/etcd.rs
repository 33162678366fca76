//! Maintenance of data in etcd: reads and verifies all of it, imports it from another store, and seals it once it is
//! moved.

pub(super) mod import;
pub(super) mod seal;
pub(super) mod verify;

#[cfg(test)]
mod tests;
