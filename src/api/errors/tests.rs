use tonic_types::StatusExt as _;

use super::*;

/// An error of one part leaves the outcome of its message unknown: parts in other lanes may have been applied.
#[test]
fn an_error_of_a_part_leaves_the_message_in_doubt() {
    let away = || StoreError::Unavailable("away".into());
    let future = || Rejection::FromFuture { time: 2, now: 1 };
    let damaged = || StoreError::Damaged {
        counter: Some("g/a".into()),
        problem: "it is damaged".into(),
    };
    let errors = [
        (
            LaneError::Refused(Rejection::IdReused),
            Reason::SequenceReused,
        ),
        (
            LaneError::Refused(Rejection::SessionDamaged),
            Reason::SessionDamaged,
        ),
        (
            LaneError::Refused(Rejection::Overtaken { applied: 1 }),
            Reason::MessageOvertaken,
        ),
        (
            LaneError::Refused(Rejection::Full {
                max_bytes: 1,
                retry_in: 1,
            }),
            Reason::SessionsFull,
        ),
        (LaneError::Refused(future()), Reason::SessionFromFuture),
        (LaneError::Unavailable(damaged()), Reason::CounterDamaged),
        (LaneError::Unavailable(away()), Reason::StoreUnavailable),
        (LaneError::Unknown(away()), Reason::StoreUnavailable),
        (LaneError::NotOwner, Reason::StoreUnavailable),
        (LaneError::Overloaded, Reason::Overloaded),
        (LaneError::Closed, Reason::ShuttingDown),
    ];
    for (error, reason) in errors {
        let only = Status::from(Error::of_session(error.clone()));
        let expected = match error.outcome() {
            Outcome::NotApplied => "NOT_APPLIED",
            Outcome::Unknown => "UNKNOWN",
        };
        let part = Status::from(Error::of_part(error));
        for (status, outcome) in [(part, "UNKNOWN"), (only, expected)] {
            let info = status.get_details_error_info().expect("an ErrorInfo");
            assert_eq!(
                (&*info.reason, status.code()),
                (reason.name(), reason.code())
            );
            assert_eq!(info.metadata["outcome"], outcome, "{reason:?}");
            let is_untouched = status.message().contains("nothing was changed");
            assert!(!is_untouched || outcome == "NOT_APPLIED", "{status}");
        }
    }
}

/// The outcome of a message of a damaged session is unknown: it may have been applied when it was sent before.
#[test]
fn a_message_of_a_damaged_session_is_in_doubt() {
    let error = LaneError::Refused(Rejection::SessionDamaged);
    for error in [Error::of_part(error.clone()), Error::of_session(error)] {
        let status = Status::from(error);
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(info.metadata["outcome"], "UNKNOWN");
        assert!(!status.message().contains("was applied"), "{status}");
    }
}

/// Every error has the outcome that its reason declares, if it declares one.
#[test]
fn outcomes_are_as_declared() {
    let refusals = [
        Rejection::IdReused,
        Rejection::TooOld {
            time: 1,
            horizon: 2,
            now: None,
        },
        Rejection::FromFuture { time: 2, now: 1 },
        Rejection::Full {
            max_bytes: 1,
            retry_in: 1,
        },
        Rejection::Gap { expected: 1 },
        Rejection::Acknowledged { acknowledged: 1 },
        Rejection::BeyondWindow { acknowledged: 1 },
        Rejection::Overtaken { applied: 1 },
        Rejection::SessionLost { acknowledged: 1 },
        Rejection::SessionDamaged,
        Rejection::FailuresUnacknowledged { failures: 1 },
    ];
    let mut errors: Vec<_> = refusals.into_iter().map(LaneError::Refused).collect();
    let stores = [
        StoreError::Unavailable("away".into()),
        StoreError::Conflict,
        StoreError::Lost,
        StoreError::Full("full".into()),
        StoreError::Failed("failed".into()),
        StoreError::Damaged {
            counter: None,
            problem: "damaged".into(),
        },
    ];
    for error in stores {
        errors.push(LaneError::Unknown(error.clone()));
        errors.push(LaneError::Unavailable(error));
    }
    errors.extend([
        LaneError::NotOwner,
        LaneError::Overloaded,
        LaneError::Closed,
    ]);
    for error in errors {
        for error in [
            Error::of_request(error.clone()),
            Error::of_session(error.clone()),
            Error::of_part(error),
        ] {
            let status = Status::from(error);
            let info = status.get_details_error_info().expect("an ErrorInfo");
            let mut all = Reason::ALL.iter();
            let reason = all.find(|reason| reason.name() == info.reason);
            let declared = reason.expect("a reason").outcome().map(Outcome::name);
            let outcome = &*info.metadata["outcome"];
            assert!(
                declared.is_none_or(|declared| declared == outcome),
                "{status}"
            );
        }
    }
}

/// Each error that no lane has made, with its reason, its outcome and whether it says when to retry.
#[test]
fn other_errors_have_their_reasons() {
    let away = || StoreError::Unavailable("away".into());
    let lost = |here: Option<Error>| Error::AnswerLost {
        node: "b".to_owned(),
        here: here.map(Box::new),
    };
    let store = |outcome| Error::Store {
        error: away(),
        outcome,
    };
    let failed = Error::Failed {
        failure: FailedIncrement {
            index: 3,
            refusal: LimitError::Max {
                value: 1,
                delta: 2,
                max: 2,
            },
        },
        counter: Some("g/a".to_owned()),
        is_of_batch: true,
    };
    let invalid = vec![("delta".to_owned(), "it is zero".to_owned())];
    for (error, reason, outcome, retries) in [
        (
            Error::Invalid(invalid),
            Reason::InvalidArgument,
            "NOT_APPLIED",
            false,
        ),
        (failed, Reason::LimitReached, "NOT_APPLIED", false),
        (lost(None), Reason::AnswerLost, "UNKNOWN", true),
        (lost(Some(Error::Bug)), Reason::AnswerLost, "UNKNOWN", true),
        (
            store(Outcome::NotApplied),
            Reason::StoreUnavailable,
            "NOT_APPLIED",
            true,
        ),
        (
            store(Outcome::Unknown),
            Reason::StoreUnavailable,
            "UNKNOWN",
            true,
        ),
        (
            Error::ConfirmedMeanwhile,
            Reason::MessageOvertaken,
            "UNKNOWN",
            true,
        ),
        (Error::Draining, Reason::ShuttingDown, "UNKNOWN", true),
        (Error::Bug, Reason::Panic, "UNKNOWN", false),
    ] {
        let status = Status::from(error);
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(
            (&*info.reason, status.code()),
            (reason.name(), reason.code())
        );
        assert_eq!(info.metadata["outcome"], outcome, "{reason:?}");
        assert_eq!(
            status.get_details_retry_info().is_some(),
            retries,
            "{reason:?}"
        );
        if reason == Reason::LimitReached {
            assert_eq!(
                (&*info.metadata["counter"], &*info.metadata["index"]),
                ("g/a", "3")
            );
        }
    }
}
