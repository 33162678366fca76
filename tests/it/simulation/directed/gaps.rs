//! Rows of logs, and of imported ids, that another program has deleted.

use sumd::etcd::delete;
use sumd::proto::sumd::store::v1::{Before, BeforePack};

use super::*;

/// Each batch is a pack of its own.
fn sizes() -> Tuning {
    Tuning {
        open_bytes: 0,
        ..Tuning::default()
    }
}

fn pack(seq: u64) -> String {
    format!("{}{:04x}/{seq:016x}", rows::PACKS, lane())
}

fn change(world: &World, operations: Vec<sumd::proto::etcd::etcdserverpb::RequestOp>) {
    let request = TxnRequest {
        success: operations,
        ..TxnRequest::default()
    };
    world.lock().etcd.txn(&request).expect("it fits");
}

async fn count(running: &LaneRuntime, times: usize) {
    for _ in 0..times {
        let counted = running.lanes.execute(lane(), plain()).await;
        counted.expect("it counts");
    }
}

/// Makes an increment, which fails: the lane ends with the reason.
async fn assert_ends(mut running: LaneRuntime, told: [&str; 2]) {
    let said = running.lanes.execute(lane(), plain()).await;
    assert!(matches!(said, Err(LaneError::Unknown(_))), "{said:?}");
    let ended = timeout(FOR_EVER, running.failure()).await.expect("it ends");
    let ended = ended.to_string();
    for part in [told[0], told[1], "`sumd check`", "`sumd restore`"] {
        assert!(ended.contains(part), "{part}: {ended}");
    }
}

/// A lane is not served without one of its batches, because the ids and changes in that batch are unknown.
#[test]
fn a_lane_without_one_of_its_batches_ends() {
    paused_runtime().block_on(async {
        let head = format!("{}{:04x}", rows::HEADS, lane());
        let gap = "a batch is missing";
        for (gone, named, told) in [
            (pack(1), pack(2), gap),
            (pack(2), pack(3), gap),
            (pack(4), head.clone(), "last batch is missing"),
            (head, pack(1), "the head of its lane is missing"),
        ] {
            let world = world(LANES);
            count(&open(Switch::new(&world), sizes()).await, 4).await;
            change(&world, vec![delete(gone)]);
            let node = open(Switch::new(&world), sizes()).await;
            assert_ends(node, [&named, told]).await;
        }
    });
}

/// The same for a node that has the lane in memory, and reads what others have committed since.
#[test]
fn a_lane_does_not_go_on_across_a_gap() {
    paused_runtime().block_on(async {
        for gone in 2..=4 {
            let world = world(LANES);
            let a = open(Switch::new(&world), sizes()).await;
            count(&a, 1).await;
            count(&open(Switch::new(&world), sizes()).await, 3).await;
            change(&world, vec![delete(pack(gone))]);
            assert_ends(a, ["/sumd/log/", "batch is missing"]).await;
        }
    });
}

/// A lane is not served without one of the rows of imported ids, either.
#[test]
fn a_lane_without_ids_from_elsewhere_ends() {
    const HOUR: i64 = 3_600_000;
    paused_runtime().block_on(async {
        let key = |index: i64| format!("{}/before/{index:08x}", rows::PREFIX);
        for (gone, told) in [
            (None, None),
            (Some(0), Some((key(1), "a row is missing before it"))),
            (Some(1), Some((key(2), "a row is missing before it"))),
            (Some(2), Some((key(3), "a row is missing before it"))),
            (
                Some(3),
                Some(("/sumd/before/".to_owned(), "its last rows are missing")),
            ),
        ] {
            let world = world(LANES);
            describe(
                &world,
                &Meta {
                    before_until: BEGAN + 3 * HOUR,
                    ..meta(LANES)
                },
            );
            for index in (0..4).filter(|index| Some(*index) != gone) {
                let row = Before {
                    packs: vec![BeforePack {
                        time: BEGAN + index * HOUR,
                        places: 1,
                        ..BeforePack::default()
                    }],
                };
                let key = key(index);
                let value = rows::seal(rows::hasher(), key.as_bytes(), &row);
                change(&world, vec![put(key, value)]);
            }
            let node = open(Switch::new(&world), sizes()).await;
            match &told {
                None => count(&node, 1).await,
                Some((row, told)) => assert_ends(node, [row, told]).await,
            }
        }
    });
}
