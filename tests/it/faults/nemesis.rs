//! Makes faults happen, one after the other, and waits until all is well in between.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::{sleep, timeout};

use super::fault::Fault;
use super::fleet::Fleet;
use super::pulse::Served;
use crate::crash::history::{Clock, Moment};

/// The longest time until all is well again, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A fault that has happened.
pub struct Event {
    pub fault: Fault,
    pub begun: Moment,
    pub mended: Moment,
    /// When each node was first answered after the mending.
    pub served: Vec<Moment>,
}

/// Makes one fault after the other happen, each for some time.
pub async fn storm(
    fleet: &mut Fleet,
    faults: &[Fault],
    longest: Duration,
    served: &mut [Served],
    clock: Clock,
    rng: &mut Rng,
) -> Vec<Event> {
    let mut events = Vec::new();
    for fault in faults {
        sleep(Duration::from_millis(rng.u64(50..400))).await;
        eprintln!("{:>7.3} s: {fault}", clock.now().as_secs_f64());
        let begun = clock.now();
        let wound = fault.begin(fleet).await;
        let lasts = longest.mul_f64(0.2 + 0.8 * rng.f64());
        sleep(lasts.max(fault.lasts())).await;
        wound.mend(fleet).await;
        let mended = clock.now();
        let mut all = Vec::new();
        for (node, served) in served.iter_mut().enumerate() {
            let back = timeout(PATIENCE, served.wait_for(|served| *served > mended)).await;
            let back = back.unwrap_or_else(|_| panic!("n{node} does not serve after {fault}"));
            all.push(*back.expect("it is asked"));
        }
        for node in &mut fleet.nodes {
            node.assert_runs();
        }
        events.push(Event {
            fault: *fault,
            begun,
            mended,
            served: all,
        });
        // The next fault must happen alone, too.
        fleet.cluster.healthy().await;
    }
    events
}
