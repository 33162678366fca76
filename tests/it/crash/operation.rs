//! The operations of clients, and their outcomes by the contract.

use std::sync::Arc;

use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use sumd::proto::sum::v1::{
    BatchIncrementCountersRequest, DeleteCounterRequest, Increment, IncrementCounterRequest,
    OnLimit, SetCounterRequest,
};
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::ErrorInfo;

use super::history::{Answer, Outcome, Verdict};

pub type Name = Arc<str>;
pub type Client = CounterServiceClient<Channel>;

/// One increment.
#[derive(Clone, Debug)]
pub struct Add {
    pub counter: Name,
    pub delta: i64,
    pub min: Option<i64>,
    pub max: Option<i64>,
    pub saturate: bool,
}

/// A change.
#[derive(Clone, Debug)]
pub enum Operation {
    Increment(Add),
    Batch(Vec<Add>),
    Set(Name, i64),
    Delete(Name),
}

/// The reason why an increment was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitError {
    pub reason: String,
    pub value: Option<i64>,
    pub delta: Option<i64>,
    pub min: Option<i64>,
    pub max: Option<i64>,
}

impl LimitError {
    pub fn read(info: &ErrorInfo) -> Self {
        let number = |key| {
            let text: Option<&String> = info.metadata.get(key);
            text.map(|text| text.parse().expect("a number"))
        };
        assert_eq!(info.metadata["outcome"], "NOT_APPLIED", "{info:?}");
        Self {
            reason: info.reason.clone(),
            value: number("value"),
            delta: number("delta"),
            min: number("min"),
            max: number("max"),
        }
    }
}

impl Add {
    pub fn new(counter: Name, delta: i64) -> Self {
        Self {
            counter,
            delta,
            min: None,
            max: None,
            saturate: false,
        }
    }

    /// The value after the increment, or the reason for its refusal. This is written from the contract, not from the
    /// server's code.
    pub fn onto(&self, value: i64) -> Result<i64, LimitError> {
        let refused = |reason: &str, min, max| {
            Err(LimitError {
                reason: reason.to_owned(),
                value: Some(value),
                delta: Some(self.delta),
                min,
                max,
            })
        };
        if let (Some(min), Some(max)) = (self.min, self.max)
            && min > max
        {
            return Err(LimitError {
                reason: "INVALID_ARGUMENT".to_owned(),
                ..LimitError::default()
            });
        }
        let before = i128::from(value);
        let wanted = before + i128::from(self.delta);
        let least = i128::from(self.min.unwrap_or(i64::MIN));
        let most = i128::from(self.max.unwrap_or(i64::MAX));
        let number = |value: i128| Ok(i64::try_from(value).expect("it is within limits"));
        // An increment is stopped by the upper limit only upwards, and by the lower limit only downwards: a value
        // beyond a limit may return.
        let stopped = match self.delta {
            ..0 => wanted < least,
            0 => false,
            1.. => wanted > most,
        };
        if !stopped {
            return number(wanted);
        }
        if self.saturate {
            return match self.delta {
                ..0 => number(before.min(least)),
                _ => number(before.max(most)),
            };
        }
        match (self.min, self.max) {
            (Some(min), _) if wanted < min.into() => refused("LIMIT_REACHED", Some(min), None),
            (_, Some(max)) if wanted > max.into() => refused("LIMIT_REACHED", None, Some(max)),
            _ => refused("COUNTER_OUT_OF_RANGE", Some(i64::MIN), Some(i64::MAX)),
        }
    }

    fn on_limit(&self) -> i32 {
        let on_limit = if self.saturate {
            OnLimit::Saturate
        } else {
            OnLimit::Reject
        };
        on_limit.into()
    }

    pub fn to_proto(&self) -> Increment {
        Increment {
            counter: self.counter.to_string(),
            delta: self.delta,
            min: self.min,
            max: self.max,
            on_limit: self.on_limit(),
        }
    }
}

impl Operation {
    /// Its increments, if it has any.
    pub fn increments(&self) -> &[Add] {
        match self {
            Self::Increment(add) => std::slice::from_ref(add),
            Self::Batch(all) => all,
            Self::Set(..) | Self::Delete(_) => &[],
        }
    }

    /// The same operation with other contents.
    pub fn forged(&self) -> Self {
        match self.clone() {
            Self::Increment(mut add) => {
                add.delta ^= 1;
                Self::Increment(add)
            }
            Self::Batch(mut all) => {
                all[0].delta ^= 1;
                Self::Batch(all)
            }
            Self::Set(name, value) => Self::Set(name, value ^ 1),
            Self::Delete(name) => Self::Set(name, 0),
        }
    }

    /// Sends it once, with an id or with an empty one.
    pub async fn send(&self, client: &mut Client, id: &str) -> Result<Answer, Status> {
        let request_id = id.to_owned();
        Ok(match self {
            Self::Increment(add) => {
                let request = IncrementCounterRequest {
                    counter: add.counter.to_string(),
                    delta: add.delta,
                    request_id,
                    request_time: None,
                    min: add.min,
                    max: add.max,
                    on_limit: add.on_limit(),
                };
                let done = client.increment_counter(request).await?.into_inner();
                let (value, applied) = (done.value, done.applied);
                let result = Outcome::Applied { value, applied };
                answer(done.revision, vec![result], done.replayed)
            }
            Self::Batch(all) => {
                let request = BatchIncrementCountersRequest {
                    increments: all.iter().map(Add::to_proto).collect(),
                    request_id,
                    request_time: None,
                };
                let done = client.batch_increment_counters(request).await?.into_inner();
                let results = done.results.iter().map(|one| Outcome::Applied {
                    value: one.value,
                    applied: one.applied,
                });
                answer(done.revision, results.collect(), done.replayed)
            }
            Self::Set(name, value) => {
                let request = SetCounterRequest {
                    counter: name.to_string(),
                    value: *value,
                    request_id,
                    request_time: None,
                };
                let done = client.set_counter(request).await?.into_inner();
                let result = Outcome::Replaced(done.previous_value);
                answer(done.revision, vec![result], done.replayed)
            }
            Self::Delete(name) => {
                let request = DeleteCounterRequest {
                    counter: name.to_string(),
                    request_id,
                    request_time: None,
                };
                let done = client.delete_counter(request).await?.into_inner();
                let result = Outcome::Replaced(done.previous_value);
                answer(done.revision, vec![result], done.replayed)
            }
        })
    }
}

fn answer(revision: i64, results: Vec<Outcome>, replayed: bool) -> Answer {
    Answer {
        verdict: Verdict::Effect { revision, results },
        replayed,
    }
}
