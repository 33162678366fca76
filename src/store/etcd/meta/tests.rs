//! Data that are closed, and data of an earlier format.

use super::*;
use crate::store::etcd::kv::tests::model::Model;

const PREFIX: &str = "/sumd";

fn meta() -> Meta {
    Meta {
        format: FORMAT - 1,
        lanes: 2,
        key: vec![7; 16].into(),
        ..Meta::default()
    }
}

fn with(meta: &Meta) -> Model {
    let kv = Model::default();
    kv.write(replace(PREFIX, meta, 0).success);
    kv
}

/// A guard that holds if something is not there, which is not there.
fn unchanged() -> Compare {
    at_revision("other", 0)
}

/// Data that were moved elsewhere, or are not complete, are of use to nobody, and are not changed.
#[tokio::test]
async fn closed_data_are_refused() {
    let filling = Meta {
        filling: true,
        ..meta()
    };
    let moved = Meta {
        moved_to: "sqlite:there".to_owned(),
        ..meta()
    };
    for (meta, why) in [(filling, "are not complete"), (moved, "were moved to")] {
        let kv = with(&meta);
        let refused = [
            open(&kv, PREFIX, 2).await.map(drop),
            check_not_moved(&kv, PREFIX).await,
            raise_format(&kv, PREFIX, unchanged()).await.map(drop),
        ];
        for refused in refused {
            let Err(OpenError::Data(told)) = refused else {
                panic!("{refused:?}");
            };
            assert!(told.contains(why), "{told}");
        }
        let (found, _) = read(&kv, PREFIX).await.expect("it is there");
        assert_eq!(found.map(|(found, _)| found), Some(meta));
    }
    let kv = with(&meta());
    assert!(check_not_moved(&kv, PREFIX).await.is_ok());
    let gone = check_not_moved(&Model::default(), PREFIX).await;
    assert!(matches!(gone, Err(OpenError::Data(_))));
}

/// The format is raised, and nothing else, unless the guard has something against it.
#[tokio::test]
async fn a_format_is_raised_once() {
    let kv = with(&meta());
    let format = async || {
        let (found, _) = read(&kv, PREFIX).await.expect("it is there");
        found.map(|(found, _)| found)
    };
    let changed = at_revision("other", 1);
    let raised = raise_format(&kv, PREFIX, changed.clone()).await;
    assert!(!raised.expect("it is not to be"));
    assert_eq!(format().await, Some(meta()));

    let raised = raise_format(&kv, PREFIX, unchanged()).await;
    assert!(raised.expect("it is"));
    let newest = Meta {
        format: FORMAT,
        ..meta()
    };
    assert_eq!(format().await, Some(newest));

    // There is nothing left to do, whatever the guard says.
    let raised = raise_format(&kv, PREFIX, changed).await;
    assert!(raised.expect("it is"));
    let raised = raise_format(&Model::default(), PREFIX, unchanged()).await;
    assert!(!raised.expect("there is nothing"));
}
