//! An etcd that is over its quota.

use super::*;

/// Long before a caller is told that nobody knows.
const PROMPT: Duration = Duration::from_secs(1);

/// etcd does not tell if it has committed what has brought it over its quota: that is found in the log. What comes then is
/// certainly not counted, and its callers are told so, and why.
#[test]
fn a_batch_that_an_etcd_without_room_has_committed_is_found() {
    paused_runtime().block_on(async {
        let world = world(LANES);
        let kv = Switch::new(&world);
        let a = open(kv.clone(), Sizes::default()).await;
        let count = async |request| {
            let counted = timeout(PROMPT, a.lanes.execute(lane(), request));
            counted.await.expect("at once")
        };
        assert_eq!(value(&count(plain()).await.expect("there is room")), 1);
        kv.set_room(Room::OneMore);
        assert_eq!(value(&count(plain()).await.expect("it is found")), 2);
        kv.set_room(Room::Nothing);
        for request in [plain(), message("s", 1, one()), plain()] {
            match count(request).await {
                Err(LaneError::Unavailable(StoreError::Full(problem))) => {
                    assert!(problem.contains("over its quota"), "{problem}");
                }
                other => panic!("{other:?}"),
            }
        }
        kv.set_room(Room::Enough);
        assert_eq!(value(&count(plain()).await.expect("there is room")), 3);
        count(message("s", 1, one())).await.expect("a new one");
    });
}

/// A batch that was not answered before may land once there is room again: nobody is told that it was not counted.
#[test]
fn a_batch_in_doubt_stays_so_without_room() {
    paused_runtime().block_on(async {
        let world = world(LANES);
        let kv = Switch::new(&world);
        let a = open(kv.clone(), Sizes::default()).await;
        kv.no_writes.store(true, Ordering::Relaxed);
        let counted = tokio::spawn(a.lanes.execute(lane(), plain()));
        // Some copies of it have gone by then.
        sleep(Duration::from_secs(2)).await;
        kv.set_room(Room::Nothing);
        kv.no_writes.store(false, Ordering::Relaxed);
        let told = timeout(FOR_EVER, counted).await.expect("an answer");
        let told = told.expect("no panic");
        assert!(matches!(told, Err(LaneError::Unknown(_))), "{told:?}");
        kv.set_room(Room::Enough);
        let counted = timeout(FOR_EVER, async {
            loop {
                match a.lanes.execute(lane(), plain()).await {
                    Ok(decided) => return value(&decided),
                    Err(LaneError::Unavailable(_)) => sleep(Duration::from_millis(10)).await,
                    Err(other) => panic!("{other:?}"),
                }
            }
        });
        assert_eq!(counted.await.expect("it goes on"), 2);
    });
}
