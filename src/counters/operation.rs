//! The common part of the methods that change counters. Each is an operation on one lane, executed on the node that
//! owns the lane.

use prost::Message;
use tonic::Status;

use super::convert;
use super::error;
use crate::cluster::Kind;
use crate::lane::Decided;
use crate::model::{Applied, Effect, FailedIncrement, KeyedHasher, Request, group};
use crate::proto::sum::v1::{
    BatchIncrementCountersRequest, BatchIncrementCountersResponse, DeleteCounterRequest,
    DeleteCounterResponse, IncrementCounterRequest, IncrementCounterResponse, IncrementResult,
    SetCounterRequest, SetCounterResponse,
};

/// A request for an operation.
pub(super) trait Operation: Message + Default + Clone + Send + 'static {
    type Answer: Message + Default;
    /// The part of the request that the status of a failure needs.
    type Context: Send + 'static;

    const KIND: Kind;

    /// The group of its first counter, empty if there is none. Invalid requests are found later.
    fn group(&self) -> &str;

    fn id(&mut self) -> &mut String;

    /// Validates the request, and converts it for its lane.
    ///
    /// # Errors
    /// Returns INVALID_ARGUMENT if the request is invalid.
    fn into_request(self, hasher: KeyedHasher) -> Result<(Request, Self::Context), Status>;

    /// Converts a decision to the answer.
    ///
    /// # Errors
    /// Returns the failure if an increment fails.
    fn answer(decided: Decided) -> Result<Self::Answer, FailedIncrement>;

    /// The status of a failed increment.
    fn failed(context: &Self::Context, failure: &FailedIncrement) -> Status;

    fn replayed(answer: &mut Self::Answer) -> &mut bool;
}

impl Operation for IncrementCounterRequest {
    type Answer = IncrementCounterResponse;
    type Context = String;

    const KIND: Kind = Kind::Increment;

    fn group(&self) -> &str {
        group(&self.counter)
    }

    fn id(&mut self) -> &mut String {
        &mut self.request_id
    }

    fn into_request(self, hasher: KeyedHasher) -> Result<(Request, String), Status> {
        let name = self.counter.clone();
        Ok((convert::increment(self, hasher)?, name))
    }

    fn answer(decided: Decided) -> Result<Self::Answer, FailedIncrement> {
        let replayed = decided.answer.replayed;
        match decided.answer.done {
            Effect::Incremented(Applied { value, applied }) => Ok(IncrementCounterResponse {
                value,
                applied,
                revision: decided.revision,
                replayed,
            }),
            Effect::Failed(failure) => Err(failure),
            other => unreachable!("{other:?} is not an answer to an increment"),
        }
    }

    fn failed(name: &String, failure: &FailedIncrement) -> Status {
        error::failure(failure, Some(name), false)
    }

    fn replayed(answer: &mut Self::Answer) -> &mut bool {
        &mut answer.replayed
    }
}

impl Operation for BatchIncrementCountersRequest {
    type Answer = BatchIncrementCountersResponse;
    type Context = Self;

    const KIND: Kind = Kind::BatchIncrement;

    fn group(&self) -> &str {
        let first = self.increments.first();
        first.map_or("", |first| group(&first.counter))
    }

    fn id(&mut self) -> &mut String {
        &mut self.request_id
    }

    fn into_request(self, hasher: KeyedHasher) -> Result<(Request, Self), Status> {
        Ok((convert::batch(&self, hasher)?, self))
    }

    fn answer(decided: Decided) -> Result<Self::Answer, FailedIncrement> {
        let replayed = decided.answer.replayed;
        match decided.answer.done {
            Effect::Batch(results) => Ok(BatchIncrementCountersResponse {
                results: results.iter().map(result).collect(),
                revision: decided.revision,
                replayed,
            }),
            Effect::Failed(failure) => Err(failure),
            other => unreachable!("{other:?} is not an answer to a batch"),
        }
    }

    fn failed(request: &Self, failure: &FailedIncrement) -> Status {
        let failed = request.increments.get(failure.index as usize);
        let name = failed.map(|increment| increment.counter.as_str());
        error::failure(failure, name, true)
    }

    fn replayed(answer: &mut Self::Answer) -> &mut bool {
        &mut answer.replayed
    }
}

impl Operation for SetCounterRequest {
    type Answer = SetCounterResponse;
    type Context = ();

    const KIND: Kind = Kind::Set;

    fn group(&self) -> &str {
        group(&self.counter)
    }

    fn id(&mut self) -> &mut String {
        &mut self.request_id
    }

    fn into_request(self, hasher: KeyedHasher) -> Result<(Request, ()), Status> {
        Ok((convert::set(&self, hasher)?, ()))
    }

    fn failed((): &(), failure: &FailedIncrement) -> Status {
        error::failure(failure, None, false)
    }

    fn answer(decided: Decided) -> Result<Self::Answer, FailedIncrement> {
        Ok(SetCounterResponse {
            previous_value: replaced(&decided),
            revision: decided.revision,
            replayed: decided.answer.replayed,
        })
    }

    fn replayed(answer: &mut Self::Answer) -> &mut bool {
        &mut answer.replayed
    }
}

impl Operation for DeleteCounterRequest {
    type Answer = DeleteCounterResponse;
    type Context = ();

    const KIND: Kind = Kind::Delete;

    fn group(&self) -> &str {
        group(&self.counter)
    }

    fn id(&mut self) -> &mut String {
        &mut self.request_id
    }

    fn into_request(self, hasher: KeyedHasher) -> Result<(Request, ()), Status> {
        Ok((convert::delete(&self, hasher)?, ()))
    }

    fn failed((): &(), failure: &FailedIncrement) -> Status {
        error::failure(failure, None, false)
    }

    fn answer(decided: Decided) -> Result<Self::Answer, FailedIncrement> {
        Ok(DeleteCounterResponse {
            previous_value: replaced(&decided),
            revision: decided.revision,
            replayed: decided.answer.replayed,
        })
    }

    fn replayed(answer: &mut Self::Answer) -> &mut bool {
        &mut answer.replayed
    }
}

fn result(added: &Applied) -> IncrementResult {
    IncrementResult {
        value: added.value,
        applied: added.applied,
    }
}

fn replaced(decided: &Decided) -> i64 {
    match &decided.answer.done {
        Effect::Replaced(before) => *before,
        other => unreachable!("{other:?} is not an answer to a replacement"),
    }
}
