//! The common part of the methods that change counters. Each is an operation on one lane, executed on the node that
//! owns the lane.

use prost::Message;

use super::convert;
use super::error::Error;
use crate::cluster::Kind;
use crate::lane::Decided;
use crate::model::{Applied, Effect, FailedIncrement, KeyedHasher, Request, group};
use crate::proto::sum::v1::{
    BatchIncrementCountersRequest, BatchIncrementCountersResponse, DeleteCounterRequest,
    DeleteCounterResponse, IncrementCounterRequest, IncrementCounterResponse, IncrementResult,
    SetCounterRequest, SetCounterResponse,
};

/// A request for an operation.
pub(crate) trait Operation: Message + Default + Clone + Send + 'static {
    type Answer: Message + Default;
    /// The part of the request that the error of a failed increment needs.
    type Context: Send + 'static;

    const KIND: Kind;

    /// The group of its first counter, empty if there is none. Invalid requests are found later.
    fn group(&self) -> &str;

    fn id(&mut self) -> &mut String;

    /// Validates the request, and converts it for its lane.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if the request is invalid.
    fn into_request(self, hasher: KeyedHasher) -> Result<(Request, Self::Context), Error>;

    /// Converts a decision to the answer.
    ///
    /// # Errors
    /// Returns the failure if an increment fails.
    fn answer(decided: Decided) -> Result<Self::Answer, FailedIncrement>;

    /// The error of a failed increment.
    fn failed(context: Self::Context, failure: FailedIncrement) -> Error;

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

    fn into_request(self, hasher: KeyedHasher) -> Result<(Request, String), Error> {
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

    fn failed(name: String, failure: FailedIncrement) -> Error {
        Error::Failed {
            failure,
            counter: Some(name),
            is_of_batch: false,
        }
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

    fn into_request(self, hasher: KeyedHasher) -> Result<(Request, Self), Error> {
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

    fn failed(request: Self, failure: FailedIncrement) -> Error {
        let failed = request.increments.into_iter().nth(failure.index as usize);
        Error::Failed {
            failure,
            counter: failed.map(|increment| increment.counter),
            is_of_batch: true,
        }
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

    fn into_request(self, hasher: KeyedHasher) -> Result<(Request, ()), Error> {
        Ok((convert::set(&self, hasher)?, ()))
    }

    fn failed((): (), failure: FailedIncrement) -> Error {
        Error::Failed {
            failure,
            counter: None,
            is_of_batch: false,
        }
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

    fn into_request(self, hasher: KeyedHasher) -> Result<(Request, ()), Error> {
        Ok((convert::delete(&self, hasher)?, ()))
    }

    fn failed((): (), failure: FailedIncrement) -> Error {
        Error::Failed {
            failure,
            counter: None,
            is_of_batch: false,
        }
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
