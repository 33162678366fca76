//! Data that are closed for a move, opened again, or known to be elsewhere.

use super::*;
use crate::maintenance::etcd::seal::{close, closed, complete, undo};
use crate::store::etcd::rows::FORMAT_MOVED;

/// Data that are closed are opened again as they were, as long as nothing tells that they are of use elsewhere.
#[tokio::test]
async fn a_move_is_undone_unless_it_may_be_complete() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sumd.db");
    let to = format!("sqlite:{}", file.display());
    let kv = Model::default();
    let place = place(kv.clone(), 1);
    let first = Meta {
        format: 1,
        ..meta()
    };
    describe(&kv, &first);
    let told = async |force| undo(&place, force).await.map_err(|error| error.to_string());
    let why = told(false).await.expect_err("they are open");
    assert!(why.contains("nothing to undo"), "{why}");

    let stale = close(&place, &to).await.expect("nobody uses them");
    assert!(stale.refusal(&place).is_none() && stale.file().is_empty());
    let sealed = Meta {
        format: FORMAT_MOVED,
        moved_to: to.clone(),
        ..first.clone()
    };
    assert_eq!(described(&kv).await, sealed);
    assert!(close(&place, "sqlite:/elsewhere").await.is_err());
    assert!(
        closed(&place, &to)
            .await
            .is_ok_and(|closed| closed.is_some())
    );
    let elsewhere = closed(&place, "sqlite:/elsewhere").await;
    assert!(elsewhere.is_ok_and(|closed| closed.is_none()));
    std::fs::write(&file, "").expect("a file");
    assert!(closed(&place, &to).await.is_err());
    let why = told(false)
        .await
        .expect_err("an older version may have made it");
    assert!(why.contains("which exists"), "{why}");
    std::fs::remove_file(&file).expect("the file");
    assert_eq!(told(false).await, Ok(to.clone()));
    let open = Meta {
        format: FORMAT_MOVED,
        ..first
    };
    assert_eq!(described(&kv).await, open);

    let again = close(&place, &to).await.expect("nobody uses them");
    assert!(complete(&place, stale, "id".into()).await.is_err());
    complete(&place, again, "id".into())
        .await
        .expect("it is still closed");
    let complete = closed(&place, &to).await.expect("an answer");
    let complete = complete.expect("it is closed");
    assert!(complete.refusal(&place).is_some());
    assert_eq!(complete.file(), b"id");
    let why = told(false).await.expect_err("they are elsewhere");
    assert!(why.contains("the move is complete"), "{why}");
    assert_eq!(told(true).await, Ok(to));
    assert_eq!(described(&kv).await, open);
}

/// A change that another process makes to the data while they are being closed stays.
#[tokio::test]
async fn of_two_who_close_data_one_is_told() {
    fn other() -> Meta {
        Meta {
            moved_to: "sqlite:/other".to_owned(),
            ..meta()
        }
    }
    fn comes(kv: &Model) {
        describe(kv, &other());
        kv.write(vec![put(format!("{PREFIX}/nodes/late"), "")]);
    }
    let cases: [(fn(&Model), _); 2] = [
        (|kv| describe(kv, &other()), "moved by another process"),
        (comes, "in use by late"),
    ];
    for (happens, why) in cases {
        let kv = Model::default();
        describe(&kv, &meta());
        let place = place(Raced::new(&kv, 1, happens), 1);
        let refused = close(&place, "sqlite:/here").await.err();
        let told = refused.expect("it is the other's").to_string();
        assert!(told.contains(why), "{told}");
        assert_eq!(described(&kv).await, other());
    }
}
