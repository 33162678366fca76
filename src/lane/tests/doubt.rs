//! Stores that do not answer, lose commits, or fail, and lanes that other nodes outrun.

use super::*;

/// A request of one increment, with or without an id.
fn request(store: &MemoryStore, has_id: bool) -> Request {
    let request = batch(1);
    let id = has_id.then(|| store.hasher().id("id", None, &request.operation));
    Request { id, ..request }
}

/// If the store does not answer a batch, its callers get UNKNOWN, and later callers NOT_APPLIED. The lane goes on once
/// the store answers.
#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_told() {
    let store = MemoryStore::default();
    let running = lanes(&store).await;
    store.freeze();
    let first = tokio::spawn(running.lanes.execute(LANE, batch(1)));
    store.is_asked().await;
    let first = timeout(LONG, first).await.expect("it is told");
    let first = first.expect("no panic");
    assert!(matches!(first, Err(LaneError::Unknown(_))), "{first:?}");
    let later = timeout(LONG, running.lanes.execute(LANE, batch(1))).await;
    let later = later.expect("it is told");
    assert!(matches!(later, Err(LaneError::Unavailable(_))), "{later:?}");
    store.thaw();
    let decided = loop {
        let answer = timeout(LONG, running.lanes.execute(LANE, batch(1))).await;
        match answer.expect("it is answered") {
            Err(LaneError::Unavailable(_)) => tokio::task::yield_now().await,
            answer => break answer.expect("it is carried out"),
        }
    };
    assert_eq!(decided.revision, 2, "behind the one that nobody knew of");
}

/// A job is in doubt after its batch may have been stored. A store that cannot be reached afterwards does not make it
/// NOT_APPLIED, with or without an id.
#[tokio::test(start_paused = true)]
async fn doubt_about_a_batch_outlives_a_store_that_goes_away() {
    for has_id in [true, false] {
        let store = MemoryStore::default();
        let running = lanes(&store).await;
        store.lose();
        let asked = running.lanes.execute(LANE, request(&store, has_id));
        let told = timeout(LONG, asked).await.expect("it is told");
        assert!(matches!(told, Err(LaneError::Unknown(_))), "{told:?}");
        let next = timeout(LONG, running.lanes.execute(LANE, batch(1))).await;
        next.expect("it is answered").expect("the lane goes on");
    }
}

/// An operation with an id is decided again if its batch is lost, since it happens once however often it is decided.
#[tokio::test(start_paused = true)]
async fn an_operation_with_an_id_is_decided_again_after_a_lost_batch() {
    for has_id in [true, false] {
        let store = MemoryStore::default();
        let running = lanes(&store).await;
        store.drop_next();
        let asked = running.lanes.execute(LANE, request(&store, has_id));
        let told = timeout(LONG, asked).await.expect("it is told");
        match told {
            Ok(_) => assert!(has_id),
            Err(error) => assert!(
                !has_id && matches!(error, LaneError::Unknown(_)),
                "{error:?}"
            ),
        }
        assert_eq!(store.commits(), if has_id { 2 } else { 1 });
    }
}

/// If another node always commits before this one has read the last commits, no caller waits for ever: each is told
/// that nothing was changed. The lane goes on.
#[tokio::test(start_paused = true)]
async fn a_lane_that_another_node_outruns_says_so() {
    let store = MemoryStore::default();
    let running = lanes(&store).await;
    store.outrun(true);
    let (replies, mut answers) = mpsc::unbounded_channel();
    let message = part("s", 1, Some(0), 1);
    let queued = running.lanes.enqueue(LANE, message, 1, replies).await;
    queued.expect("the lane has not ended");
    let single = running.lanes.execute(LANE, batch(1));
    let single = timeout(LONG, single).await.expect("it is told");
    let bulk = timeout(LONG, answers.recv()).await.expect("it is told");
    for told in [single, bulk.expect("an answer")] {
        assert!(matches!(told, Err(LaneError::Unavailable(_))), "{told:?}");
    }
    store.outrun(false);
    let decided = timeout(LONG, running.lanes.execute(LANE, batch(1))).await;
    decided.expect("it is told").expect("the lane goes on");
}

/// A lane that ends with its store answers every pending request, including those of streams.
#[tokio::test(start_paused = true)]
async fn a_lane_that_fails_answers_all_that_wait() {
    let store = MemoryStore::default();
    let mut running = lanes(&store).await;
    store.fail();
    let (replies, mut answers) = mpsc::unbounded_channel();
    for sequence in 1..=3 {
        let message = part("s", sequence, Some(sequence - 1), 1);
        let queued = running.lanes.enqueue(LANE, message, 1, replies.clone());
        queued.await.expect("the lane has not ended yet");
    }
    let single = running.lanes.execute(LANE, batch(1));
    let single = timeout(LONG, single).await.expect("it is told");
    assert!(matches!(single, Err(LaneError::Unknown(_))), "{single:?}");
    for _ in 1..=3 {
        let told = timeout(LONG, answers.recv()).await.expect("it is told");
        let told = told.expect("there is a sender");
        assert!(matches!(told, Err(LaneError::Unknown(_))), "{told:?}");
    }
    let failure = timeout(LONG, running.failure()).await;
    assert!(matches!(
        failure,
        Ok(StartError::Store(StoreError::Failed(_)))
    ));

    // A request that can no longer be queued is refused, once.
    let queued = running
        .lanes
        .enqueue(LANE, part("s", 4, Some(3), 1), 1, replies);
    let refused = queued.await.expect_err("the lane has ended");
    assert!(matches!(refused, LaneError::Closed), "{refused:?}");
    assert!(answers.recv().await.is_none());
}

/// A lane whose head has moved, although nothing new is there, is loaded again. A store that says so twice contradicts itself:
/// that is told, and the lane goes on once it does not.
#[tokio::test(start_paused = true)]
async fn a_head_that_has_moved_by_nothing_is_loaded_again() {
    for (late, loads) in [(1, 2), (2, 2)] {
        let store = MemoryStore::default();
        let running = lanes(&store).await;
        store.be_late(late);
        let told = timeout(LONG, running.lanes.execute(LANE, batch(1))).await;
        let told = told.expect("it is told");
        match late {
            1 => assert_eq!(told.expect("it is carried out").revision, 1),
            _ => assert!(matches!(told, Err(LaneError::Unavailable(_))), "{told:?}"),
        }
        assert_eq!(store.loads(), loads);
        let next = timeout(LONG, running.lanes.execute(LANE, batch(1))).await;
        next.expect("it is told").expect("the lane goes on");
    }
}

/// A node whose commit made another node's come too late leaves it the next turn: the other one would be late again and again.
#[tokio::test(start_paused = true)]
async fn nodes_take_turns() {
    let store = MemoryStore::default();
    let running = lanes(&store).await;
    store.contend();
    let begun = Instant::now();
    for took in [TURN, 8 * TURN] {
        let asked = timeout(LONG, running.lanes.execute(LANE, batch(1))).await;
        asked.expect("it is told").expect("it is carried out");
        let elapsed = begun.elapsed();
        assert!((took..took + TURN).contains(&elapsed), "{elapsed:?}");
    }
}

/// Requests that name a damaged counter are refused, and the lane goes on. If nobody has named it the store contradicts itself:
/// the lane ends, and does not ask it for ever.
#[tokio::test(start_paused = true)]
async fn a_damaged_counter_is_refused_to_those_that_name_it() {
    let store = MemoryStore::default();
    let mut running = lanes(&store).await;
    store.damage(Some("g/a"));
    let refused = timeout(LONG, running.lanes.execute(LANE, batch(1))).await;
    let refused = refused.expect("it is told");
    assert!(
        matches!(
            &refused,
            Err(LaneError::Unavailable(StoreError::Damaged { .. }))
        ),
        "{refused:?}"
    );
    store.damage(Some("g/b"));
    let told = timeout(LONG, running.lanes.execute(LANE, batch(1))).await;
    let told = told.expect("it is told");
    assert!(matches!(told, Err(LaneError::Unknown(_))), "{told:?}");
    let failure = timeout(LONG, running.failure()).await;
    assert!(matches!(failure, Ok(StartError::Store(_))), "{failure:?}");
}
