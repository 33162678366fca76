//! `sumd.cluster.v1.PeerService`: calls from other nodes.

mod parts;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::peer_service_server;
use crate::cluster::{self, Answers, Call, IncomingCalls, Kind, PeerRefusal, Reply};
use crate::counters::{Counters, Error, Operation, why};
use crate::layers::CallContext;
use crate::proto::sum::v1::{
    BatchIncrementCountersRequest, DeleteCounterRequest, IncrementCounterRequest, SetCounterRequest,
};
use crate::proto::sumd::cluster::v1::ForwardRequest;
use parts::PartJoin;

/// The service, over the calls that this node executes for others.
pub struct PeerApi(pub IncomingCalls);

#[tonic::async_trait]
impl peer_service_server::PeerService for PeerApi {
    type ForwardStream = Answers;

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let closing = CallContext::of(request.extensions())
            .connection
            .closing
            .clone();
        Ok(Response::new(self.0.answer(request.into_inner(), closing)))
    }
}

/// Executes the calls that other nodes forward.
pub struct Executor {
    counters: Counters,
    /// Parts of messages that wait for capacity in the lanes. The senders bound their number. If parts were refused,
    /// their sender would execute them itself, and compete with this node just when it is overloaded.
    parts: mpsc::UnboundedSender<(Bytes, Reply)>,
}

impl Executor {
    /// Executes calls by the lanes of some counters, on the current runtime. It never forwards a call.
    #[must_use]
    pub fn new(counters: &Counters) -> Self {
        let counters = counters.alone();
        let (parts, waiting) = mpsc::unbounded_channel();
        tokio::spawn(run_parts(counters.clone(), waiting));
        Self { counters, parts }
    }

    fn run<O: Operation>(&self, call: &Call, reply: Reply) {
        if call.own_id
            && let Err(full) = self.counters.admit_own_id()
        {
            return reply.send(Err(refusal(full)));
        }
        let request = match O::decode(call.payload.clone()) {
            Ok(request) => request,
            Err(error) => return reply.send(Err(malformed(&error))),
        };
        self.counters.execute_forwarded(request, move |answer| {
            let answer = answer.map(|answer| answer.encode_to_vec().into());
            reply.send(answer.map_err(refusal));
        });
    }
}

impl cluster::Executor for Executor {
    fn execute(&self, call: Call, reply: Reply) {
        match call.kind {
            Kind::Increment => self.run::<IncrementCounterRequest>(&call, reply),
            Kind::BatchIncrement => self.run::<BatchIncrementCountersRequest>(&call, reply),
            Kind::Set => self.run::<SetCounterRequest>(&call, reply),
            Kind::Delete => self.run::<DeleteCounterRequest>(&call, reply),
            Kind::RecordParts => {
                // If the task is gone, the dropped reply reports that the call is lost.
                let _ = self.parts.send((call.payload, reply));
            }
        }
    }

    fn for_this_runtime(&self) -> Arc<dyn cluster::Executor> {
        Arc::new(Self::new(&self.counters.for_this_runtime()))
    }
}

/// Enqueues one call after the other, so that the parts of each lane stay in order.
async fn run_parts(counters: Counters, mut waiting: mpsc::UnboundedReceiver<(Bytes, Reply)>) {
    while let Some((payload, reply)) = waiting.recv().await {
        match counters.read_parts(payload) {
            Ok(parts) => {
                let join = Arc::new(PartJoin::new(parts.len(), move |answers| {
                    reply.send(Ok(answers));
                }));
                let put = move |index, answer| join.put(index, answer);
                counters.execute_parts(parts, put).await;
            }
            Err(error) => reply.send(Err(malformed(&error))),
        }
    }
}

fn malformed(error: &dyn fmt::Display) -> PeerRefusal {
    PeerRefusal::declined(format!("the call cannot be read: {error}"))
}

/// The refusal of a call, for the node that has sent it. A node of an earlier version reads the status alone.
fn refusal(error: Error) -> PeerRefusal {
    let why = why(&error);
    let status = Status::from(error);
    match why {
        Some(why) => PeerRefusal { why, status },
        // The sender finds the same error and reports it. A sender whose version accepts more executes the request.
        None => PeerRefusal::declined(status.message().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::lane::LaneError;
    use crate::model::{FailedIncrement, LimitError};
    use crate::proto::sumd::cluster::v1::{Plain, refusal::Why};

    /// A node of an earlier version gets the status of the client's error beside the refusal. An invalid request is
    /// declined, with the code on which every version executes the request itself.
    #[test]
    fn a_refusal_has_the_status_for_earlier_versions() {
        let (value, delta, max) = (7, 5, 10);
        let failure = FailedIncrement {
            index: 0,
            refusal: LimitError::Max { value, delta, max },
        };
        let failed = refusal(Error::Failed {
            failure,
            counter: Some("a/b".to_owned()),
            is_of_batch: false,
        });
        assert!(matches!(failed.why, Why::Failure(_)), "{failed:?}");
        assert_eq!(failed.status.code(), Code::FailedPrecondition);
        assert!(failed.status.message().contains("a/b"), "{failed:?}");

        let declined = Why::Plain(Plain::Declined.into());
        let closed = refusal(Error::of_request(LaneError::Closed));
        assert_eq!(
            (closed.why, closed.status.code()),
            (declined, Code::Unavailable)
        );
        let invalid = refusal(Error::Invalid(vec![("delta".to_owned(), "bad".to_owned())]));
        assert_eq!(
            (invalid.why, invalid.status.code()),
            (declined, Code::Unavailable)
        );
        assert_eq!(invalid.status.message(), "delta: bad");
    }
}
