//! The request ids of one batch, in transit from one store to another.

use std::sync::Arc;

use crate::model::{Millis, Pack, Stamp};

/// The request ids of one batch.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) time: Millis,
    /// The latest time of an id, if any id has one.
    pub(crate) newest: Option<Millis>,
    /// The revision before its first position.
    pub(crate) base: i64,
    pub(crate) places: u32,
    pub(crate) ids: Arc<[u8]>,
}

impl Remembered {
    /// The pack for a lane, without the batch's number, which the lane does not know.
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
