//! Data in etcd: read and compared as a whole, written from elsewhere, and sealed once they are elsewhere.

pub(super) mod import;
pub(super) mod seal;
pub(super) mod verify;
