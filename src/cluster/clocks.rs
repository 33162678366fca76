//! Compares the clocks of the nodes with this node's. A node whose clock is off owns no lanes, so that its clock does
//! not decide which ids are too old or too new.
//!
//! Nodes send their time with all answers to each other. Of two clocks, neither is known to be right; of more, the
//! median is taken for right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::View;
use super::clock_state::ClockState;
use crate::model::{MAX_SKEW, Millis, duration};

/// Interval between two comparisons.
const INTERVAL: Duration = Duration::from_secs(1);
/// Number of comparisons in a row after which the state of a clock changes. After a pause of this process, the other
/// clocks seem to be behind until the messages that they sent meanwhile are read.
const LOOKS: u32 = 12;
/// Age up to which a received time counts. Nodes send it with each answer, and with keepalives every ten seconds.
const FRESH: Duration = Duration::from_secs(30);

/// How far the clocks of other nodes are ahead of this one's. Clones share the values.
#[derive(Clone, Default)]
pub(super) struct Clocks(Arc<Mutex<HashMap<String, Heard>>>);

struct Heard {
    ahead: Millis,
    at: Instant,
}

/// The time of day, as sent to other nodes.
pub(super) fn now() -> Millis {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |time| {
        Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
    })
}

impl Clocks {
    /// Records the time that a node has just sent.
    pub(super) fn hear(&self, id: &str, time: Millis) {
        let heard = Heard {
            ahead: time.saturating_sub(now()),
            at: Instant::now(),
        };
        self.heard().insert(id.to_owned(), heard);
    }

    /// How far the clocks of the other nodes of a view are ahead, as far as they were heard recently.
    fn ahead(&self, own_id: &str, view: &View) -> Vec<Millis> {
        let mut all = self.heard();
        all.retain(|id, heard| heard.at.elapsed() < FRESH && view.node(id).is_some());
        let others = all.iter().filter(|(id, _)| *id != own_id);
        others.map(|(_, heard)| heard.ahead).collect()
    }

    /// The lock cannot leave a partial change, so a poisoned one is used as it is.
    fn heard(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The distance of a clock from the median, given how far the others are ahead of it. With an even number of clocks,
/// every time between the two in the middle counts as the median: of two clocks, neither is off.
fn away(mut ahead: Vec<Millis>) -> Millis {
    ahead.push(0);
    ahead.sort_unstable();
    let (low, high) = (ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]);
    low.max(0).max(high.saturating_neg())
}

/// Compares the clocks at an interval, and reports the state of this node's. Ends when the sender of views is dropped.
pub(super) async fn judge(
    clocks: Clocks,
    own_id: String,
    view: watch::Receiver<Arc<View>>,
    refuses_ids: impl Fn() -> bool,
    mut tell: impl FnMut(ClockState),
) {
    let (mut is_off, mut looks, mut differs) = (false, 0, false);
    while view.has_changed().is_ok() {
        let ahead = clocks.ahead(&own_id, &view.borrow());
        let two = match ahead[..] {
            [other] => other.saturating_abs(),
            _ => 0,
        };
        let away = away(ahead);
        // A lower bound for coming back keeps a clock near the limit from changing its state at once again.
        let bound = if is_off { MAX_SKEW / 2 } else { MAX_SKEW };
        looks = if (away > bound) == is_off {
            0
        } else {
            looks + 1
        };
        if looks == LOOKS {
            (is_off, looks) = (!is_off, 0);
            if is_off {
                warn!(
                    "this node's clock is {} off the clocks of most nodes: the node owns no lanes until the clocks \
                     agree",
                    duration(away)
                );
            } else {
                info!("this node's clock agrees with the clocks of most nodes again");
            }
        }
        if (two > MAX_SKEW) && !std::mem::replace(&mut differs, two > MAX_SKEW) {
            warn!(
                "the clocks of this node and of the only other node differ by {}: either may be wrong",
                duration(two)
            );
        }
        tell(if is_off {
            ClockState::Off
        } else if refuses_ids() {
            ClockState::BehindHorizon
        } else {
            ClockState::Agrees
        });
        sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::node::tests::node;

    const HOUR: Millis = 3_600_000;

    #[test]
    fn the_clock_in_the_middle_is_right() {
        assert_eq!(away(vec![]), 0, "it is the only one");
        assert_eq!(away(vec![HOUR]), 0, "of two either may be wrong");
        assert_eq!(away(vec![HOUR, HOUR + 5]), HOUR);
        assert_eq!(away(vec![-HOUR, -HOUR - 5]), HOUR);
        assert_eq!(away(vec![-HOUR, HOUR]), 0, "it is in the middle");
        assert_eq!(away(vec![0, HOUR]), 0, "another one is off");
        assert_eq!(away(vec![0, HOUR, HOUR]), 0, "two are for each");
        assert_eq!(away(vec![5, HOUR, HOUR + 1]), 5);
        assert_eq!(away(vec![HOUR, HOUR, HOUR + 1]), HOUR);
    }

    #[test]
    fn states_have_names() {
        for state in [
            ClockState::Unknown,
            ClockState::Agrees,
            ClockState::BehindHorizon,
            ClockState::Off,
        ] {
            assert_eq!(ClockState::from_name(state.name()), state);
        }
        assert_eq!(ClockState::from_name(Some("later")), ClockState::Unknown);
    }

    /// A node is off after its clock has differed from two others for some time, not after a single comparison; it is
    /// no longer off once it agrees.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_off_is_told() {
        let clocks = Clocks::default();
        let nodes = ["a", "b", "c"].map(node).into();
        let (_views, view) = watch::channel(Arc::new(View::new(1, nodes, 8)));
        let (told, mut state) = watch::channel(ClockState::Unknown);
        let tell = move |state| {
            told.send_replace(state);
        };
        let task = judge(clocks.clone(), "a".to_owned(), view, || false, tell);
        let task = tokio::spawn(task);
        let mut hear = async |ahead: Millis, looks: u32| {
            for _ in 0..looks {
                for id in ["b", "c", "gone"] {
                    clocks.hear(id, now() + ahead);
                }
                state.mark_unchanged();
                state.changed().await.expect("it looks");
            }
            *state.borrow()
        };
        assert_eq!(hear(0, 2).await, ClockState::Agrees);
        assert_eq!(hear(2 * HOUR, LOOKS - 1).await, ClockState::Agrees);
        assert_eq!(hear(0, 1).await, ClockState::Agrees);
        assert_eq!(hear(-HOUR, LOOKS).await, ClockState::Off);
        assert_eq!(hear(0, LOOKS).await, ClockState::Agrees);
        task.abort();
    }
}
