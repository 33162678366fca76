use tonic_types::StatusExt as _;

use super::*;

/// A message may have parts in several lanes. The outcome of one of them says nothing of the others.
#[test]
fn an_error_of_a_part_leaves_the_message_in_doubt() {
    let away = || StoreError::Unavailable("away".into());
    let future = || Refused::FromFuture { time: 2, now: 1 };
    let damaged = || StoreError::Damaged {
        counter: Some("g/a".into()),
        problem: "it is damaged".into(),
    };
    let errors = [
        (LaneError::Refused(Refused::IdReused), "SEQUENCE_REUSED"),
        (
            LaneError::Refused(Refused::SessionDamaged),
            "SESSION_DAMAGED",
        ),
        (
            LaneError::Refused(Refused::Overtaken { applied: 1 }),
            "MESSAGE_OVERTAKEN",
        ),
        (
            LaneError::Refused(Refused::Full {
                max_bytes: 1,
                retry_in: 1,
            }),
            "SESSIONS_FULL",
        ),
        (LaneError::Refused(future()), "SESSION_FROM_FUTURE"),
        (LaneError::Unavailable(damaged()), "COUNTER_DAMAGED"),
        (LaneError::Unavailable(away()), "STORE_UNAVAILABLE"),
        (LaneError::Unknown(away()), "STORE_UNAVAILABLE"),
        (LaneError::Moved, "STORE_UNAVAILABLE"),
        (LaneError::Overloaded, "OVERLOADED"),
        (LaneError::Closed, "SHUTTING_DOWN"),
    ];
    for (error, reason) in errors {
        let only = lane_error(error.clone(), Kind::Session);
        let expected = match error.effect() {
            Effect::None => "NOT_APPLIED",
            Effect::Unknown => "UNKNOWN",
        };
        for (status, outcome) in [(of_part(error), "UNKNOWN"), (only, expected)] {
            let info = status.get_details_error_info().expect("an ErrorInfo");
            assert_eq!(info.reason, reason);
            assert_eq!(info.metadata["outcome"], outcome, "{reason}");
            let is_untouched = status.message().contains("nothing was changed");
            assert!(!is_untouched || outcome == "NOT_APPLIED", "{status}");
        }
    }
}

/// A message of a damaged session may be applied: it may have been sent before.
#[test]
fn a_message_of_a_damaged_session_is_in_doubt() {
    let error = LaneError::Refused(Refused::SessionDamaged);
    for status in [
        of_part(error.clone()),
        lane_error(error.clone(), Kind::Session),
    ] {
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(info.metadata["outcome"], "UNKNOWN");
        assert!(!status.message().contains("was applied"), "{status}");
    }
}
