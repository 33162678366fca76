//! The messages of clients and of other nodes.

// A panic is how a target reports what it found.
#![allow(clippy::missing_panics_doc)]

use bytes::Bytes;
use prost::Message as _;

use super::error::Error;
use super::operation::Operation;
use super::refusal::{Forwarded, why};
use crate::cluster::read_refusal;
use crate::model::fuzzing::{decide, hasher};
use crate::proto::sum::v1::{
    BatchIncrementCountersRequest, DeleteCounterRequest, IncrementCounterRequest, SetCounterRequest,
};
use crate::proto::sumd::cluster::v1::{Answer, answer::Result as Of};

pub use super::record::fuzzing::{bulk, parts};

/// A request that changes a counter, from a client or from another node: it is refused as a whole, and this returns the
/// error, or a lane decides it. A repeat with the same id gets the same answer. The first byte chooses the method.
pub(crate) fn request(bytes: &[u8]) -> Option<Error> {
    let (method, payload) = bytes.split_first()?;
    let payload = Bytes::copy_from_slice(payload);
    match method % 4 {
        0 => request_of::<IncrementCounterRequest>(payload),
        1 => request_of::<BatchIncrementCountersRequest>(payload),
        2 => request_of::<SetCounterRequest>(payload),
        _ => request_of::<DeleteCounterRequest>(payload),
    }
}

fn request_of<O: Operation>(payload: Bytes) -> Option<Error> {
    let request = O::decode(payload).ok()?;
    let group = request.group().to_owned();
    match request.into_request(hasher()) {
        Ok((request, _)) => {
            assert_eq!(request.operation.group(), group);
            decide(request);
            None
        }
        Err(error) => Some(error),
    }
}

/// The answer of another node to a call, or to as many parts of a message as the first byte says. A refusal keeps its
/// meaning when it is sent on, and an answer that tells nothing leaves the call in doubt. Returns the errors that clients
/// may get for it.
pub(crate) fn answer(bytes: &[u8]) -> Vec<Error> {
    let Some((parts, payload)) = bytes.split_first() else {
        return Vec::new();
    };
    let payload = Bytes::copy_from_slice(payload);
    super::record::fuzzing::part_answers(payload.clone(), usize::from(*parts));

    let Ok(answer) = Answer::decode(payload) else {
        return Vec::new();
    };
    let status = match answer.result {
        Some(Of::Ok(_)) => return Vec::new(),
        Some(Of::Error(status)) => status,
        None => Bytes::new(),
    };
    let tells_nothing = status.is_empty() && answer.refusal.is_none();
    let errors = match Forwarded::from(read_refusal(status, answer.refusal)) {
        Forwarded::InDoubt => return Vec::new(),
        Forwarded::NotSent => Vec::new(),
        Forwarded::Refused(error) => vec![
            Error::of_request(error.clone()),
            Error::of_copy(error.clone()),
            Error::of_session(error.clone()),
            Error::of_part(error),
        ],
        Forwarded::Failed(failure) => [false, true]
            .map(|is_of_batch| Error::Failed {
                failure,
                counter: Some("acme/calls".to_owned()),
                is_of_batch,
            })
            .into(),
        Forwarded::Answered(_) => panic!("a refusal is no answer"),
    };
    assert!(!tells_nothing);
    errors.iter().for_each(sent_on);
    errors
}

/// Checks that a node reads an error of another one as that, and as doubt if the operation has other copies or parts.
fn sent_on(error: &Error) {
    let why = why(error).expect("an error of a valid request");
    match (Forwarded::from(why), error) {
        (Forwarded::InDoubt, Error::Lane(failure)) if !failure.is_whole() => {}
        (Forwarded::Refused(read), Error::Lane(failure)) if failure.is_whole() => {
            assert_eq!(format!("{read:?}"), format!("{:?}", failure.error()));
        }
        (Forwarded::Failed(read), Error::Failed { failure, .. }) => assert_eq!(read, *failure),
        (read, error) => panic!("{error:?} is read as {read:?}"),
    }
}
