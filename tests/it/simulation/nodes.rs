//! Nodes: sumd's store, lanes and model, with a new link for each of their runs.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use sumd::counters::Counters;
use sumd::lane::{self, Clock, Decided, LaneError, LaneRuntime, Lanes};
use sumd::model::{Millis, Request};
use sumd::store::etcd::EtcdStore;
use sumd::store::{LaneNumber, Store, StoreError};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::mutants::stores;
use super::network::{Link, Weather, World};
use super::plan::Plan;
use super::rows::PREFIX;

/// The time of day when a simulation begins.
pub const BEGAN: Millis = 1_700_000_000_000;

/// The longest time to an answer once all faults have ended.
pub const PROMPT: Duration = Duration::from_secs(40);
/// The index that stands for no preferred node.
const NOBODY: usize = usize::MAX;

/// A running node.
#[derive(Clone)]
pub struct Node {
    pub lanes: Lanes,
    pub store: Arc<dyn Store>,
    pub service: Counters,
    link: Link,
}

/// The settings of one run of a node.
#[derive(Clone, Default)]
pub struct Life {
    /// How far its clock is ahead, in ms.
    pub ahead: Arc<AtomicI64>,
    /// Whether it hands back requests, as if another node owned their lanes.
    pub hands_back: bool,
}

/// The nodes, as clients see them.
#[derive(Clone)]
pub struct Cluster {
    pub plan: Arc<Plan>,
    pub world: World,
    pub began: Instant,
    slots: Arc<[Slot]>,
    /// The node that clients prefer as long as it is up.
    favourite: Arc<AtomicUsize>,
    /// Cancelled when the faults have ended.
    pub healed: CancellationToken,
    pub stop: CancellationToken,
}

struct Slot {
    node: Mutex<Option<Node>>,
    weather: Arc<Mutex<Weather>>,
    ahead: Arc<AtomicI64>,
}

/// The result of a call.
pub enum Answer {
    Effect(Decided),
    Failed(LaneError),
    /// This call has certainly not carried it out.
    NotSent,
    /// There was no answer.
    Lost,
}

impl Cluster {
    pub fn new(plan: Plan, world: World) -> Self {
        let slot = || Slot {
            node: Mutex::default(),
            weather: Arc::new(Mutex::new(Weather::Calm)),
            ahead: Arc::default(),
        };
        Self {
            slots: (0..plan.nodes).map(|_| slot()).collect(),
            plan: Arc::new(plan),
            world,
            began: Instant::now(),
            favourite: Arc::new(AtomicUsize::new(NOBODY)),
            healed: CancellationToken::new(),
            stop: CancellationToken::new(),
        }
    }

    /// A random node that is up, or the preferred one.
    pub fn any(&self, rng: &mut Rng) -> Option<Node> {
        let at = rng.usize(..self.slots.len());
        let favourite = self.favourite.load(Ordering::Relaxed);
        let favourite = self.slots.get(favourite).and_then(Slot::node);
        favourite.or_else(|| self.slots[at].node())
    }

    /// One of the nodes, if it is up.
    pub fn node(&self, at: usize) -> Option<Node> {
        self.slots[at].node()
    }

    /// From some time on, makes all clients prefer one node, whose reads mostly fail at first.
    pub async fn settle(self, mut rng: Rng) {
        sleep(Duration::from_millis(rng.u64(1_000..12_000))).await;
        let at = rng.usize(..self.slots.len());
        self.favourite.store(at, Ordering::Relaxed);
        while rng.u8(..3) > 0 && !self.healed.is_cancelled() {
            self.set_weather(at, Weather::partly(&mut rng));
            sleep(Duration::from_millis(rng.u64(..8_000))).await;
        }
    }

    pub fn now(&self) -> Millis {
        BEGAN + Millis::try_from(self.began.elapsed().as_millis()).expect("a short time")
    }

    pub fn lane(&self, group: &str) -> LaneNumber {
        super::rows::hasher().lane(group, self.plan.lanes)
    }

    /// Opens a node.
    ///
    /// # Errors
    /// Returns an error if the data cannot be read, or are wrong.
    pub async fn open(
        &self,
        link: Link,
        at: usize,
        life: Life,
    ) -> Result<(LaneRuntime, Node), String> {
        let plan = &self.plan;
        let store =
            EtcdStore::over(link.clone(), PREFIX, plan.max_operations, plan.sizes[at]).await;
        let store: Arc<dyn Store> = Arc::new(store.map_err(|error| error.to_string())?);
        let store = stores::mutated(store, link.mutant());
        let (began, ahead) = (self.began, life.ahead);
        let clock = Clock::new(move || {
            let elapsed = Millis::try_from(began.elapsed().as_millis()).expect("a short time");
            BEGAN + ahead.load(Ordering::Relaxed) + elapsed
        });
        let running = LaneRuntime::here(store.clone(), plan.bounds, clock).await;
        let running = running.map_err(|error| error.to_string())?;
        // Either every lane counts as owned by another node, or none does.
        running.lanes.set_owner_check(move |_| life.hands_back);
        let node = Node {
            lanes: running.lanes.clone(),
            store,
            service: Counters::new(running.lanes.clone()),
            link,
        };
        Ok((running, node))
    }

    /// Starts a node, and starts it again whenever it has ended.
    pub async fn keep(self, at: usize, mut rng: Rng) {
        while !self.stop.is_cancelled() {
            let link = Link {
                world: self.world.clone(),
                alive: CancellationToken::new(),
                weather: self.slots[at].weather.clone(),
            };
            let life = Life {
                ahead: self.slots[at].ahead.clone(),
                hands_back: rng.bool(),
            };
            self.set_clock(at, &mut rng);
            if let Ok((running, node)) = self.open(link.clone(), at, life).await {
                self.set(at, Some(node));
                self.live(running, at, &mut rng).await;
                self.set(at, None);
            }
            link.alive.cancel();
            sleep(Duration::from_millis(rng.u64(10..1500))).await;
        }
    }

    fn set(&self, at: usize, node: Option<Node>) {
        let mut slot = self.slots[at].node.lock();
        *slot.as_deref_mut().expect("nobody panics with it") = node;
    }

    /// Runs a node until it fails, crashes, or is stopped in order.
    async fn live(&self, mut running: LaneRuntime, at: usize, rng: &mut Rng) {
        let life = Duration::from_millis(rng.u64(..self.plan.life));
        tokio::select! {
            biased;
            failure = running.failure() => {
                self.failed(at, &failure.to_string());
                return;
            }
            () = self.stop.cancelled() => {}
            () = sleep(life), if !self.healed.is_cancelled() => {}
        }
        if rng.u8(..4) == 0 {
            self.set(at, None);
            let _ = timeout(Duration::from_secs(20), running.close()).await;
        }
    }

    /// Records that a node has given up, for which there is no good reason here.
    fn failed(&self, at: usize, why: &str) {
        let problem = format!("node {at}: {why}");
        self.world.lock().problems.push(problem);
    }

    /// Sets a node's clock, as a daemon does to correct it, or an operator by mistake.
    fn set_clock(&self, at: usize, rng: &mut Rng) {
        let Plan { skew, jump, .. } = *self.plan;
        let may_jump = jump > 0 && !self.healed.is_cancelled();
        let most = if may_jump && rng.u8(..3) == 0 {
            jump
        } else {
            skew
        };
        let ahead = rng.i64(-most..=most);
        self.slots[at].ahead.store(ahead, Ordering::Relaxed);
    }

    /// Sets a node's clock again and again while the node runs.
    pub async fn clocks(self, at: usize, mut rng: Rng) {
        while !self.healed.is_cancelled() {
            tokio::select! {
                biased;
                () = sleep(Duration::from_millis(rng.u64(500..20_000))) => {}
                () = self.healed.cancelled() => {}
            }
            self.set_clock(at, &mut rng);
        }
    }

    /// Changes the state of the network until the faults end.
    pub async fn weather(self, at: usize, mut rng: Rng) {
        while !self.healed.is_cancelled() {
            let (weather, most) = match rng.u8(..12) {
                0..=3 => (Weather::Calm, 4_000),
                10 | 11 => (Weather::partly(&mut rng), 14_000),
                4..=6 => (Weather::Flaky(rng.u32(2..12)), 8_000),
                7 => (Weather::OnlyWrites, 14_000),
                8 => (Weather::Cut, 12_000),
                _ => {
                    let pause = Duration::from_millis(rng.u64(10..9_000));
                    (Weather::Paused(Instant::now() + pause), 9_000)
                }
            };
            self.set_weather(at, weather);
            let change = sleep(Duration::from_millis(rng.u64(10..most)));
            tokio::select! {
                biased;
                () = change => {}
                () = self.healed.cancelled() => {}
            }
        }
        self.set_weather(at, Weather::Calm);
    }

    fn set_weather(&self, at: usize, weather: Weather) {
        let slot = self.slots[at].weather.lock();
        *slot.unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// Makes etcd compact earlier revisions.
    pub async fn compact(self, mut rng: Rng) {
        loop {
            sleep(Duration::from_millis(rng.u64(50..6_000))).await;
            let kept = [0, 5, 100][rng.usize(..3)];
            let mut world = self.world.lock();
            let revision = world.etcd.revision() - kept;
            world.etcd.compact(revision);
        }
    }
}

impl Slot {
    fn node(&self) -> Option<Node> {
        let node = self.node.lock();
        node.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Node {
    /// Calls a node, over a network of the same kind.
    pub async fn ask(
        &self,
        lane: LaneNumber,
        request: Request,
        patience: Duration,
        rng: &mut Rng,
    ) -> Answer {
        let (there, back) = (rng.u64(..4), rng.u64(..4));
        let if_owner = rng.bool();
        sleep(Duration::from_millis(there)).await;
        self.link.awake().await;
        if self.link.alive.is_cancelled() {
            return Answer::NotSent;
        }
        let is_well = self.link.world.lock().healed;
        let answer = tokio::select! {
            biased;
            () = self.link.alive.cancelled() => return Answer::Lost,
            answer = self.carry_out(lane, request, if_owner) => answer,
            () = sleep(patience) => {
                if is_well && patience >= PROMPT {
                    let problem = format!("nothing was answered in {patience:?}, and all is well");
                    self.link.world.lock().problems.push(problem);
                }
                if !self.link.guesses() {
                    return Answer::Lost;
                }
                Err(LaneError::Unknown(StoreError::Unavailable("no answer".into())))
            }
        };
        sleep(Duration::from_millis(back)).await;
        match answer {
            Ok(decided) => Answer::Effect(decided),
            Err(LaneError::Unknown(error)) if self.link.guesses() => {
                Answer::Failed(LaneError::Unavailable(error))
            }
            Err(error) => Answer::Failed(error),
        }
    }

    async fn carry_out(
        &self,
        lane: LaneNumber,
        request: Request,
        if_owner: bool,
    ) -> lane::Result<Decided> {
        if if_owner {
            self.lanes.execute_if_owner(lane, request).await
        } else {
            self.lanes.execute(lane, request).await
        }
    }

    /// Waits for work of a node, which may end with the node.
    pub async fn lives<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.link.awake().await;
        tokio::select! {
            biased;
            () = self.link.alive.cancelled() => None,
            done = work => Some(done),
            () = sleep(Duration::from_secs(20)) => None,
        }
    }
}
