use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::*;
use crate::cluster::read_refusal;
use crate::proto::sumd::cluster::v1 as proto;
use crate::status;
use crate::store::StoreError;

/// A refusal as the node that receives it reads it.
fn read(why: Option<Why>) -> Forwarded {
    read_refusal(Bytes::new(), Some(proto::Refusal { why })).into()
}

#[test]
fn refusals_of_lanes_come_back_as_they_were() {
    let all = [
        Rejection::IdReused,
        Rejection::TooOld {
            time: -1,
            horizon: 2,
            now: Some(3),
        },
        Rejection::TooOld {
            time: -1,
            horizon: 2,
            now: None,
        },
        Rejection::FromFuture { time: 2, now: 1 },
        Rejection::Full {
            max_bytes: 3,
            retry_in: 4,
        },
        Rejection::Gap { expected: 5 },
        Rejection::Acknowledged { acknowledged: 6 },
        Rejection::Overtaken { applied: 7 },
        Rejection::SessionLost { acknowledged: 8 },
        Rejection::FailuresUnacknowledged { failures: 9 },
        Rejection::BeyondWindow { acknowledged: 10 },
        Rejection::SessionDamaged,
    ];
    for refused in all {
        let error = Error::of_session(LaneError::Refused(refused.clone()));
        let Forwarded::Refused(LaneError::Refused(back)) = read(why(&error)) else {
            panic!("{refused:?} comes back as something else");
        };
        assert_eq!(back, refused);
    }
}

#[test]
fn other_errors_of_lanes_keep_their_meaning() {
    let problem = || StoreError::Unavailable("away".into());
    let read_lane = |error| read(why(&Error::of_request(error)));
    for error in [
        LaneError::Unavailable(problem()),
        LaneError::NotOwner,
        LaneError::Closed,
    ] {
        assert!(matches!(read_lane(error), Forwarded::NotSent));
    }
    for error in [
        LaneError::Unknown(problem()),
        LaneError::Unknown(StoreError::Lost),
    ] {
        assert!(matches!(read_lane(error), Forwarded::InDoubt));
    }
    let overloaded = read_lane(LaneError::Overloaded);
    assert!(matches!(
        overloaded,
        Forwarded::Refused(LaneError::Overloaded)
    ));
}

#[test]
fn failures_come_back_as_they_were() {
    let (value, delta) = (i64::MAX, -5);
    for refusal in [
        LimitError::Min {
            value,
            delta,
            min: i64::MIN,
        },
        LimitError::Max {
            value,
            delta,
            max: 0,
        },
        LimitError::OutOfRange { value, delta },
    ] {
        let failure = FailedIncrement { index: 99, refusal };
        let failed = Error::Failed {
            failure,
            counter: None,
            is_of_batch: true,
        };
        let Forwarded::Failed(back) = read(why(&failed)) else {
            panic!("{failure:?} comes back as something else");
        };
        assert_eq!(back, failure);
    }
}

/// The text of an error from a node of another version is never shown to a client. The request is in
/// doubt unless that node certainly has not applied it.
#[test]
fn other_versions_are_read_with_caution() {
    let earlier = |code, reason: &str, outcome: &str| {
        let metadata = [("outcome".to_owned(), outcome.to_owned())];
        let details = ErrorDetails::with_error_info(reason, "sumd", metadata);
        let status = Status::with_error_details(code, "for a client", details);
        Forwarded::from(read_refusal(status::to_encoded(&status), None))
    };
    for (code, reason, outcome) in [
        (Code::Internal, "CALL_LOST", "UNKNOWN"),
        (Code::Internal, "ANSWER_TOO_LARGE", "UNKNOWN"),
        (Code::Internal, "MALFORMED_CALL", "NOT_APPLIED"),
        (Code::Internal, "PANIC", "UNKNOWN"),
        (Code::Unavailable, "LANE_MOVED", "NOT_APPLIED"),
        (Code::Unavailable, "OVERLOADED", "NOT_APPLIED"),
        (Code::Unavailable, "SHUTTING_DOWN", "UNKNOWN"),
        (Code::Unavailable, "STORE_UNAVAILABLE", "UNKNOWN"),
        (Code::Unavailable, "STORE_FAILED", "UNKNOWN"),
        (Code::Unavailable, "MESSAGE_OVERTAKEN", "NOT_APPLIED"),
        (Code::DataLoss, "OF_A_LATER_VERSION", "NOT_APPLIED"),
    ] {
        let read = earlier(code, reason, outcome);
        assert!(matches!(read, Forwarded::InDoubt), "{reason}: {read:?}");
    }
    for (code, reason) in [
        (Code::Unimplemented, "UNKNOWN_KIND"),
        (Code::InvalidArgument, "INVALID_ARGUMENT"),
        (Code::FailedPrecondition, "LIMIT_REACHED"),
        (Code::FailedPrecondition, "REQUEST_TOO_OLD"),
        (Code::OutOfRange, "COUNTER_OUT_OF_RANGE"),
        (Code::AlreadyExists, "REQUEST_ID_REUSED"),
        (Code::ResourceExhausted, "REQUEST_IDS_FULL"),
    ] {
        let read = earlier(code, reason, "NOT_APPLIED");
        assert!(matches!(read, Forwarded::NotSent), "{reason}: {read:?}");
    }
    let later = [
        read_refusal(bytes::Bytes::new(), None),
        read_refusal(bytes::Bytes::from_static(b"\xff"), None),
        read_refusal(bytes::Bytes::new(), Some(proto::Refusal { why: None })),
        Why::Plain(99),
    ];
    for why in later {
        assert!(matches!(why.into(), Forwarded::InDoubt));
    }
}

/// An operation that has other copies or parts is in doubt, whatever the lane says of one of them.
#[test]
fn doubt_is_not_dropped_on_the_way() {
    for error in [
        LaneError::NotOwner,
        LaneError::Closed,
        LaneError::Overloaded,
    ] {
        for error in [Error::of_part(error.clone()), Error::of_copy(error)] {
            assert!(matches!(read(why(&error)), Forwarded::InDoubt), "{error:?}");
        }
    }
}
