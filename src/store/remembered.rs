//! The request ids of one batch, on their way from one store to another.

use std::sync::Arc;

use crate::model::{Millis, Pack, Stamp};

/// The request ids of one batch.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) time: Millis,
    /// The latest time of an id, if one has a time.
    pub(crate) newest: Option<Millis>,
    /// The revision before its first place.
    pub(crate) base: i64,
    pub(crate) places: u32,
    pub(crate) ids: Arc<[u8]>,
}

impl Remembered {
    /// As a lane takes it, which does not know the batch's number.
    pub(crate) fn pack(&self) -> Pack {
        Pack {
            seq: 0,
            time: self.time,
            stamp: Stamp {
                age: None,
                newest: self.newest,
            },
            base: self.base,
            ids: self.ids.clone(),
        }
    }
}
