//! Parts of messages on their way to another node.

use super::super::reassembly::SessionReassembler;
use super::*;
use crate::counters::refusal::why;
use crate::proto::sum::v1::Increment;
use crate::proto::sumd::cluster::v1::Refusal;
use crate::status;
use crate::store::StoreError;

fn increment(counter: &str, delta: i64, (min, max): (Option<i64>, Option<i64>)) -> Increment {
    Increment {
        counter: counter.to_owned(),
        delta,
        min,
        max,
        on_limit: 0,
    }
}

/// Decodes two parts of these sizes, for lanes 0 and 1, of a message whose increments are in the given lanes.
fn decode_two(
    increments: impl Iterator<Item = usize>,
    sizes: [usize; 2],
) -> Result<Vec<(LaneNumber, Request)>, MalformedParts> {
    let increments = increments.map(|lane| increment(&in_lane(lane), 1, (None, None)));
    let message = RecordIncrementsRequest {
        session_id: "session".to_owned(),
        increments: increments.collect(),
        ..RecordIncrementsRequest::default()
    };
    let part = |(lane, size)| RecordPart {
        lane,
        indices: vec![0; size],
        ..RecordPart::default()
    };
    let parts = RecordParts {
        message: message.encode_to_vec().into(),
        count: 2,
        parts: (0..).zip(sizes).map(part).collect(),
        ..RecordParts::default()
    };
    decode_parts(parts.encode_to_vec().into(), KeyedHasher::new([7; 16]), 256)
}

#[test]
fn parts_that_are_not_the_messages_increments_are_refused() {
    let decode = |names: [usize; 3], sizes| {
        let decoded = decode_two(names.into_iter(), sizes)?;
        let sizes = decoded
            .iter()
            .map(|(_, request)| request.operation.weight());
        Ok::<_, MalformedParts>(sizes.collect::<Vec<_>>())
    };
    for (names, sizes) in [
        ([0, 1, 1], [1, 2]),
        ([0, 0, 0], [3, 0]),
        ([1, 1, 1], [0, 3]),
    ] {
        assert_eq!(decode(names, sizes).expect("parts"), sizes);
    }
    for (names, sizes) in [
        ([0, 1, 1], [1, 1]),
        ([0, 0, 1], [2, 2]),
        ([0, 0, 0], [0, 0]),
        // Increments of another lane.
        ([0, 1, 1], [2, 1]),
        ([0, 0, 0], [0, 3]),
    ] {
        let malformed = decode(names, sizes).expect_err("other increments");
        // The log says nothing else.
        assert!(malformed.to_string().contains("increments"), "{malformed}");
    }
}

/// The name of a counter in this one of 256 lanes.
fn in_lane(lane: usize) -> String {
    let hasher = KeyedHasher::new([7; 16]);
    let mut groups = (0..).map(|at| format!("g{at}"));
    let group = groups.find(|group| hasher.lane(group, 256) as usize == lane);
    group.expect("one of them") + "/1"
}

/// A peer's messages are validated: the id and the time of the session, and the number of increments.
#[test]
fn parts_that_no_node_makes_are_refused() {
    let hasher = KeyedHasher::new([7; 16]);
    let decode = |session: &str, seconds: i64, count: usize| {
        let message = RecordIncrementsRequest {
            session_id: session.to_owned(),
            session_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            increments: vec![increment(&in_lane(3), 1, (None, None)); count],
            ..RecordIncrementsRequest::default()
        };
        let parts = RecordParts {
            message: message.encode_to_vec().into(),
            count: 1,
            parts: vec![RecordPart {
                lane: 3,
                ..RecordPart::default()
            }],
            above: None,
            whole: 0,
        };
        decode_parts(parts.encode_to_vec().into(), hasher, 256)
    };
    assert_eq!(decode("s", 1_700_000_000, 1000).expect("a part").len(), 1);
    assert!(decode("", 1_700_000_000, 1).is_err(), "no name");
    assert!(
        decode(&"s".repeat(129), 1_700_000_000, 1).is_err(),
        "too long"
    );
    assert!(decode("s", i64::MAX / 2, 1).is_err(), "no such time");
    assert!(decode("s", 1_700_000_000, 1001).is_err(), "too many");

    let decode = |sizes: [usize; 2]| {
        let lanes = (0..).zip(sizes);
        decode_two(lanes.flat_map(|(lane, size)| vec![lane; size]), sizes)
    };
    assert_eq!(decode([400, 600]).expect("two parts").len(), 2);
    assert!(decode([400, 601]).is_err(), "too many together");
    assert!(decode([1000, 1000]).is_err(), "too many together");
}

/// A part has the same contents on every node and whenever it is resent, even if one of its increments fails in any
/// case.
#[test]
fn a_part_is_known_by_the_same_contents_here_and_elsewhere() {
    let hasher = KeyedHasher::new([7; 16]);
    let message = RecordIncrementsRequest {
        session_id: "session".to_owned(),
        sequence: 1,
        increments: vec![
            increment("a/1", 1, (None, None)),
            increment("b/1", -2, (Some(-5), None)),
            increment("b/2", 3, (Some(1), Some(0))),
            increment("/", 4, (None, None)),
            increment("c/1", 5, (None, Some(6))),
            increment("a/1", i64::MIN, (None, None)),
        ],
        ..RecordIncrementsRequest::default()
    };
    let encoded = message.encode_to_vec();
    let decoded = RecordMessage::decode_with_fields(&encoded).expect("a message");
    let session: SessionId = "session".into();
    let mut parts = SessionReassembler::new(hasher, 256, &session, 0);
    let fields = RawIncrements {
        message: &encoded,
        fields: &decoded.fields,
    };
    let mut increments = decoded.increments;
    parts.split(1, 0, 0, &increments);
    let all = parts.split(2, 0, 0, &increments);
    assert!(all.iter().all(|(_, part)| part.previous == Some(1)));
    assert!(all.len() > 2, "{} lanes", all.len());
    for of in [&all[..], &all[1..], &all[..1]] {
        let bound = LowerBound {
            above: 0,
            time: 1_700_000_000_123,
        };
        let sent = fields.encode((&session, bound), (3, 2), of.to_vec());
        let requests = decode_parts(sent, hasher, 256).expect("parts");
        assert_eq!(requests.len(), of.len());
        for ((at, request), (lane, part)) in requests.into_iter().zip(of) {
            let Operation::Record(record) = request.operation else {
                panic!("{:?} is no part", request.operation);
            };
            let here = hasher.message(&part.take(&mut increments));
            assert_eq!(record.contents, here, "{part:?}");
            assert_eq!((&record.session, record.time), (&session, bound.time));
            assert_eq!((record.sequence, record.acknowledged), (3, 2));
            assert_eq!(
                (at, record.follows),
                (*lane, Predecessor::InLane(part.clone()))
            );
        }
    }
}

/// A part counts as durable only if the answer is for exactly this part; after any other invalid answer it is executed
/// again.
#[test]
fn answers_to_parts_are_not_trusted() {
    let on_part_durable = |acknowledged| {
        let response = RecordIncrementsResponse {
            acknowledged,
            ..RecordIncrementsResponse::default()
        };
        RecordPartAnswer {
            result: Some(Of::Ok(response.encode_to_vec().into())),
            refusal: None,
        }
    };
    let refused = |error| {
        let error = Error::of_session(error);
        RecordPartAnswer {
            refusal: Some(Refusal { why: why(&error) }),
            result: Some(Of::Error(status::to_encoded(&error.into()))),
        }
    };
    let of_earlier_version = |answer: RecordPartAnswer| RecordPartAnswer {
        refusal: None,
        ..answer
    };
    let acknowledged = || LaneError::Refused(Rejection::Acknowledged { acknowledged: 7 });
    let told = |answers: Vec<RecordPartAnswer>, parts| {
        let answer = RecordPartsAnswer { answers }.encode_to_vec();
        let name = |answer| match answer {
            PartAnswer::Durable(_) => "durable",
            PartAnswer::Refused(_) => "refused",
            PartAnswer::Again => "again",
        };
        let read = read_answers(answer.into(), 7, parts)?;
        Some(read.into_iter().map(name).collect::<Vec<_>>())
    };
    assert_eq!(
        told(vec![on_part_durable(7), on_part_durable(8)], 2),
        Some(vec!["durable", "again"])
    );
    assert_eq!(told(vec![on_part_durable(7)], 2), None);
    assert_eq!(told(vec![on_part_durable(7); 3], 2), None);
    assert!(read_answers(Bytes::from_static(b"\xff"), 7, 1).is_none());
    for (answer, expected) in [
        (refused(acknowledged()), "refused"),
        (of_earlier_version(refused(acknowledged())), "again"),
        (refused(LaneError::Overloaded), "again"),
        (refused(LaneError::Closed), "again"),
        (refused(LaneError::Unknown(StoreError::Lost)), "again"),
        (RecordPartAnswer::default(), "again"),
    ] {
        assert_eq!(told(vec![answer], 1), Some(vec![expected]));
    }
}
