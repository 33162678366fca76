//! An etcd that is over its quota.

use super::*;

/// Long before a caller would get UNKNOWN.
const PROMPT: Duration = Duration::from_secs(1);

/// etcd does not tell whether it has committed the batch that brought it over its quota: the node finds out from the
/// log. Later batches are refused as not applied, with the reason.
#[test]
fn a_batch_that_an_etcd_without_room_has_committed_is_found() {
    paused_runtime().block_on(async {
        let world = world(LANES);
        let kv = Switch::new(&world);
        let a = open(kv.clone(), Tuning::default()).await;
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

/// A batch that was in doubt before may land once there is space, so no caller gets NOT_APPLIED.
#[test]
fn a_batch_in_doubt_stays_so_without_room() {
    paused_runtime().block_on(async {
        let world = world(LANES);
        let kv = Switch::new(&world);
        let a = open(kv.clone(), Tuning::default()).await;
        kv.no_writes.store(true, Ordering::Relaxed);
        let counted = tokio::spawn(a.lanes.execute(lane(), plain()));
        // Some copies of it have been sent by now.
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

/// The batch that has brought etcd over its quota is committed; but before it is looked for, another node has folded
/// it, and its pack is deleted. Its caller gets UNKNOWN, and it is not counted a second time.
#[test]
fn a_batch_whose_pack_is_gone_without_room_is_not_counted_again() {
    paused_runtime().block_on(async {
        let world = world(LANES);
        // Each batch is a pack, which is deleted soon.
        let sizes = Tuning {
            open_bytes: 0,
            recent_bytes: 0,
            pruned_packs: 1,
            kept_packs: 0,
            ..Tuning::default()
        };
        let packs = || {
            let key = |seq: u64| format!("{}{:04x}/{seq:016x}", rows::PACKS, lane());
            let world = world.lock();
            let there = |seq: &u64| world.etcd.changed(key(*seq).as_bytes()) > 0;
            (1..100).filter(there).collect::<Vec<_>>()
        };
        let kv = Switch::new(&world);
        let a = open(kv.clone(), sizes).await;
        let b = open(Switch::new(&world), sizes).await;
        a.lanes.execute(lane(), plain()).await.expect("it counts");
        let before = packs();
        kv.set_room(Room::OneMore);
        kv.no_heads.store(true, Ordering::Relaxed);
        let counted = tokio::spawn(a.lanes.execute(lane(), plain()));
        let overtaken = async {
            while packs() == before {
                sleep(Duration::from_millis(1)).await;
            }
            let its = *packs().last().expect("its pack");
            let mut value_of_b = 2;
            while packs().contains(&its) {
                let by_b = b.lanes.execute(lane(), plain()).await;
                value_of_b += 1;
                assert_eq!(value(&by_b.expect("there is room")), value_of_b);
            }
            value_of_b
        };
        let value_of_b = timeout(PROMPT, overtaken)
            .await
            .expect("it is deleted soon");
        kv.set_room(Room::Enough);
        kv.no_heads.store(false, Ordering::Relaxed);
        let told = timeout(FOR_EVER, counted).await.expect("an answer");
        let told = told.expect("no panic");
        assert!(matches!(told, Err(LaneError::Unknown(_))), "{told:?}");
        let by_b = b.lanes.execute(lane(), plain()).await;
        assert_eq!(value(&by_b.expect("there is room")), value_of_b + 1);
    });
}
