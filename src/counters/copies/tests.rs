use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::*;
use crate::store::StoreError;

const AGE: Duration = Duration::from_secs(10);

/// Every error of a lane, with the outcome of its copy, and whether the error decides all copies.
fn errors() -> Vec<(LaneError, &'static str, bool)> {
    let problem = || StoreError::Unavailable("away".into());
    let refused = [
        (Rejection::IdReused, true),
        (
            Rejection::TooOld {
                time: 1,
                horizon: 2,
                now: Some(3),
            },
            false,
        ),
        (Rejection::FromFuture { time: 2, now: 1 }, false),
        (
            Rejection::Full {
                max_bytes: 1,
                retry_in: 1,
            },
            false,
        ),
        (Rejection::Gap { expected: 1 }, false),
        (Rejection::Acknowledged { acknowledged: 1 }, false),
        (Rejection::Overtaken { applied: 1 }, false),
        (Rejection::SessionLost { acknowledged: 1 }, false),
        (Rejection::FailuresUnacknowledged { failures: 1 }, false),
        (Rejection::BeyondWindow { acknowledged: 1 }, false),
    ];
    let refused = refused.map(|(refused, is_final)| {
        let error = LaneError::Refused(refused);
        (error, "NOT_APPLIED", is_final)
    });
    let others = [
        (LaneError::Refused(Rejection::SessionDamaged), "UNKNOWN"),
        (LaneError::Unknown(problem()), "UNKNOWN"),
        (LaneError::Unknown(StoreError::Lost), "UNKNOWN"),
        (LaneError::Unavailable(problem()), "NOT_APPLIED"),
        (LaneError::NotOwner, "NOT_APPLIED"),
        (LaneError::Overloaded, "NOT_APPLIED"),
        (LaneError::Closed, "NOT_APPLIED"),
    ];
    let others = others.map(|(error, outcome)| (error, outcome, false));
    refused.into_iter().chain(others).collect()
}

fn told(error: &Error) -> (String, String) {
    let status = Status::from(error.clone());
    let info = status.get_details_error_info().expect("an ErrorInfo");
    (info.reason, info.metadata["outcome"].clone())
}

fn is_lost(error: &Error) -> bool {
    told(error) == ("ANSWER_LOST".to_owned(), "UNKNOWN".to_owned())
}

#[test]
fn an_error_of_the_only_copy_is_told_as_it_is() {
    for (error, outcome, _) in errors() {
        let copies = Copies::new("one", Some(AGE));
        assert_eq!(told(&copies.error(error.clone())).1, outcome, "{error:?}");
    }
}

/// Once a copy is in doubt, only a decision on all copies is NOT_APPLIED.
#[test]
fn doubt_outlives_every_error_that_is_no_decision() {
    for (error, outcome, is_final) in errors() {
        let mut copies = Copies::new("one", Some(AGE));
        copies.doubt("b").expect("its id makes a repetition safe");
        let told_error = copies.error(error.clone());
        if is_final {
            assert_eq!(told(&told_error).1, outcome, "{error:?}");
        } else {
            assert!(is_lost(&told_error), "{error:?} is told as {told_error:?}");
            let status = Status::from(told_error);
            assert_eq!(status.code(), Code::Unavailable);
            let message = status.message();
            assert!(!message.contains("nothing was changed"), "{message}");
        }
    }
    let invalid = || Error::Invalid(vec![("delta".to_owned(), "bad".to_owned())]);
    let mut copies = Copies::new("one", Some(AGE));
    assert_eq!(told(&copies.invalid(invalid())).0, "INVALID_ARGUMENT");
    copies.doubt("b").expect("its id makes a repetition safe");
    assert!(is_lost(&copies.invalid(invalid())));
}

/// Copies for other nodes carry an id made by this node, as does every copy after a lost answer.
#[test]
fn ids_of_the_nodes_making_are_for_copies_that_may_be_repeated() {
    let mut copies = Copies::new("", Some(AGE));
    let mark = |copies: &mut Copies, is_handed_on| {
        let mut id = "of the copy before".to_owned();
        (copies.mark(&mut id, is_handed_on), id)
    };
    assert_eq!(mark(&mut copies, false), (false, String::new()));
    let (own, id) = mark(&mut copies, true);
    assert!(own && !id.is_empty());
    assert_eq!(mark(&mut copies, false), (false, String::new()));
    assert_eq!(
        mark(&mut copies, true),
        (true, id.clone()),
        "the same again"
    );
    copies.doubt("b").expect("it may be repeated");
    assert_eq!(mark(&mut copies, false), (true, id));

    let mut callers = Copies::new("one", None);
    let mut id = "one".to_owned();
    assert!(!callers.mark(&mut id, true));
    assert_eq!(id, "one");
}

/// A copy is not repeated if other nodes may have forgotten its id or never remembered it.
#[tokio::test(start_paused = true)]
async fn copies_without_a_remembered_id_are_not_repeated() {
    let mut copies = Copies::new("", Some(AGE));
    copies.mark(&mut String::new(), true);
    tokio::time::advance(AGE).await;
    assert!(is_lost(
        &copies.doubt("b").expect_err("it may be forgotten")
    ));

    let mut copies = Copies::new("", None);
    assert!(!copies.mark(&mut String::new(), true));
    assert!(is_lost(&copies.doubt("b").expect_err("it has no id")));
}

/// If the owner has no memory for an id of this node, the request continues without one, unless a copy is in doubt.
#[test]
fn an_own_id_is_given_up_where_no_copy_is_in_doubt() {
    let full = Rejection::Full {
        max_bytes: 1,
        retry_in: 1,
    };
    let mut copies = Copies::new("", Some(AGE));
    copies.mark(&mut String::new(), true);
    assert!(!copies.give_up_own_id(&Rejection::IdReused));
    assert!(copies.give_up_own_id(&full));
    assert!(!copies.mark(&mut String::new(), true));
    assert!(!copies.give_up_own_id(&full), "once is enough");

    let mut copies = Copies::new("", Some(AGE));
    copies.mark(&mut String::new(), true);
    copies.doubt("b").expect("it may be repeated");
    assert!(!copies.give_up_own_id(&full));
    assert!(!Copies::new("one", Some(AGE)).give_up_own_id(&full));
}
