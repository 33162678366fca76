//! Limits on pending requests, and the return of capacity.

use super::*;

impl LaneRuntime {
    /// Number of bulk increments that may be queued now.
    fn bulk_room(&self) -> usize {
        self.lanes.shared.room.bulk.available_permits()
    }
}

/// A message holds capacity for its increments and for itself until it is answered.
#[tokio::test(start_paused = true)]
async fn a_message_takes_room_until_it_is_answered() {
    let store = MemoryStore::default();
    let running = lanes(&store).await;
    store.freeze();
    let (replies, mut answers) = mpsc::unbounded_channel();
    let message = part("meter-7", 1, None, 7);
    let queued = running.lanes.enqueue(LANE, message, 7, replies).await;
    queued.expect("there is room");
    assert_eq!(running.bulk_room(), MAX_WAITING_INCREMENTS - 8);
    store.thaw();
    let answer = timeout(LONG, answers.recv()).await.expect("it is answered");
    answer.expect("an answer").expect("it is applied");
    assert_eq!(running.bulk_room(), MAX_WAITING_INCREMENTS);
}

/// Parts of a message are queued together. Each is answered with its index, and holds capacity as a message does.
#[tokio::test(start_paused = true)]
async fn parts_are_queued_together_and_told_by_their_place() {
    let store = MemoryStore::default();
    let running = lanes(&store).await;
    store.freeze();
    let parts = vec![
        (0, part("meter-7", 1, None, 3)),
        (LANE, part("meter-7", 1, None, 5)),
    ];
    let (done, mut told) = mpsc::unbounded_channel();
    let tell = move |index, decided: Result<Decided>| {
        let lane = decided.expect("it is applied").lane;
        done.send((index, lane)).expect("it is read");
    };
    running.lanes.enqueue_all(parts, tell).await;
    assert_eq!(running.bulk_room(), MAX_WAITING_INCREMENTS - 4 - 6);
    store.thaw();
    let mut all = Vec::new();
    for _ in 0..2 {
        let next = timeout(LONG, told.recv()).await.expect("each is told of");
        all.push(next.expect("one of them"));
    }
    all.sort_unstable();
    assert_eq!(all, [(0, 0), (1, LANE)]);
    assert_eq!(running.bulk_room(), MAX_WAITING_INCREMENTS);
}

/// A stream gets an unknown outcome for a request that was dropped with its lane, and nothing for one that was not
/// queued.
#[tokio::test(start_paused = true)]
async fn a_stream_is_told_of_what_was_queued() {
    let (replies, mut answers) = mpsc::unbounded_channel();
    StreamReplies::new(replies.clone()).forget();
    assert!(answers.try_recv().is_err());
    drop(StreamReplies::new(replies));
    let told = answers.recv().await;
    assert!(matches!(told, Some(Err(LaneError::Unknown(_)))), "{told:?}");
}

/// A batch takes requests up to the bytes that its store takes at once, and at least one.
#[tokio::test(start_paused = true)]
async fn a_batch_is_bounded_by_the_bytes_of_the_store() {
    let store = MemoryStore::default();
    store.take_bytes(1);
    let running = lanes(&store).await;
    store.freeze();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(tokio::spawn(running.lanes.execute(LANE, batch(1))));
    }
    store.is_asked().await;
    store.thaw();
    for answer in waiting {
        let answer = timeout(LONG, answer).await.expect("it is answered");
        answer.expect("no panic").expect("it is carried out");
    }
    assert_eq!(store.commits(), 4);
}

/// Beyond the bound, a stream waits until there is capacity again.
#[tokio::test(start_paused = true)]
async fn a_message_waits_for_room() {
    let store = MemoryStore::default();
    let running = lanes(&store).await;
    store.freeze();
    let (replies, mut answers) = mpsc::unbounded_channel();
    let all = MAX_WAITING_INCREMENTS - 1;
    let first = part("meter-7", 1, None, 1);
    let queued = running.lanes.enqueue(LANE, first, all, replies.clone());
    queued.await.expect("there is room");
    let second = part("meter-7", 2, Some(1), 1);
    let lanes = running.lanes.clone();
    let mut waiting = tokio::spawn(async move { lanes.enqueue(LANE, second, 1, replies).await });
    let early = timeout(Duration::from_secs(1), &mut waiting).await;
    assert!(early.is_err(), "there is no room");
    store.thaw();
    let queued = timeout(LONG, waiting).await.expect("there is room again");
    queued.expect("no panic").expect("it is queued");
    for _ in 0..2 {
        let answer = timeout(LONG, answers.recv()).await.expect("it is answered");
        answer.expect("an answer").expect("it is applied");
    }
}

/// A node resends a request under an id of its own making for half the time that ids are remembered, and at most 20 s.
#[tokio::test(start_paused = true)]
async fn own_ids_are_sent_for_half_the_horizon() {
    for (id_horizon, expected) in [(10_000, 5), (39_000, 19), (600_000, 20)] {
        let bounds = Bounds {
            id_bytes: 1 << 20,
            counter_bytes: 1 << 20,
            id_horizon,
            session_horizon: 600_000,
        };
        let store = Arc::new(MemoryStore::default());
        let running = LaneRuntime::here(store, bounds, Clock::new(|| 0)).await;
        let running = running.expect("a new store");
        assert_eq!(running.lanes.own_id_age().as_secs(), expected);
    }
}

/// Lanes use the clock that they were given.
#[tokio::test(start_paused = true)]
async fn lanes_have_one_clock() {
    let running = lanes(&MemoryStore::default()).await;
    assert_eq!(running.lanes.now(), 1_700_000_000_000);
    assert_eq!(running.lanes.clock().now(), 1_700_000_000_000);
}
