//! The differences between methods: a table with a row for each.

/// The policy for the calls of a method.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The path of a request.
    pub path: &'static str,
    /// Number of request messages in a call.
    pub requests: Messages,
    /// Number of answers to a call.
    pub answers: Messages,
    /// Maximum size of a request message in bytes; `None` if `--max-message-size` sets it.
    pub max_message_bytes: Option<usize>,
    /// The handling of the contents of request messages.
    pub contents: Contents,
    /// Whether an answer may be large enough to be worth compression.
    pub may_compress: bool,
    /// Whether a call counts as in flight. Health checks do not: a busy server is healthy.
    pub is_counted: bool,
    /// Whether a call has no end of its own, and needs one of its connection's permits for watches.
    pub is_watch: bool,
    /// The phase of a shutdown that ends a call of the method.
    pub end: End,
    /// The order of an answer and of the call's end, if both are due.
    pub order: Order,
}

/// The number of messages that one side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    /// Exactly one.
    One,
    /// Any number.
    Many,
}

/// The handling of the contents of request messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// A message is held until it is whole.
    Held,
    /// The values of a message that comes in parts are summed as they come, and an empty message stands in its place.
    Summed(RefusedMessage),
}

impl Contents {
    /// Whether the values of messages are summed.
    pub(super) fn are_summed(self) -> bool {
        matches!(self, Self::Summed(_))
    }
}

/// The effect of a message that is refused for its size, or cannot be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedMessage {
    /// It ends its call.
    EndsCall,
    /// An empty message stands in its place, and the method reports the error in its answer.
    IsSkipped,
}

/// The order of precedence if both an answer and the end of a stream are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The end comes first, because answers may be ready forever.
    EndFirst,
    /// Answers come first, because they run out: above all the news of a health watch that the server drains.
    AnswersFirst,
}

/// The phase of a shutdown that ends a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The beginning, for calls that have no end of their own.
    WhenDraining,
    /// The end of the time that calls in flight get.
    WhenEnding,
}

/// Three times the size of a thousand increments with the longest names and limits. A message is buffered until it is
/// complete, so the larger limit of sums does not apply.
const COUNTER_MESSAGE_BYTES: usize = 1 << 20;
/// Requests are empty, but later versions may add fields.
const CLUSTER_MESSAGE_BYTES: usize = 4 << 10;
/// The largest message that nodes collect for each other, which `cluster` sets.
const PEER_MESSAGE_BYTES: usize = (256 << 10) + (2 << 20) + (64 << 10);
/// Requests have names of services, symbols and files.
const INFO_MESSAGE_BYTES: usize = 64 << 10;

const UNARY: Policy = Policy {
    path: "",
    requests: Messages::One,
    answers: Messages::One,
    max_message_bytes: None,
    contents: Contents::Held,
    may_compress: false,
    is_counted: true,
    is_watch: false,
    end: End::WhenEnding,
    order: Order::EndFirst,
};

const fn counter(path: &'static str) -> Policy {
    Policy {
        path,
        max_message_bytes: Some(COUNTER_MESSAGE_BYTES),
        ..UNARY
    }
}

const fn sums(path: &'static str) -> Policy {
    Policy {
        path,
        contents: Contents::Summed(RefusedMessage::EndsCall),
        ..UNARY
    }
}

const fn with_large_answers(policy: Policy) -> Policy {
    Policy {
        may_compress: true,
        ..policy
    }
}

const fn watch(policy: Policy) -> Policy {
    Policy {
        answers: Messages::Many,
        is_watch: true,
        end: End::WhenDraining,
        ..policy
    }
}

const fn nodes(path: &'static str) -> Policy {
    Policy {
        path,
        max_message_bytes: Some(CLUSTER_MESSAGE_BYTES),
        ..UNARY
    }
}

const fn health(path: &'static str) -> Policy {
    Policy {
        path,
        max_message_bytes: Some(INFO_MESSAGE_BYTES),
        is_counted: false,
        end: End::WhenDraining,
        order: Order::AnswersFirst,
        ..UNARY
    }
}

const fn reflection(path: &'static str) -> Policy {
    with_large_answers(Policy {
        path,
        requests: Messages::Many,
        answers: Messages::Many,
        max_message_bytes: Some(INFO_MESSAGE_BYTES),
        end: End::WhenDraining,
        order: Order::AnswersFirst,
        ..UNARY
    })
}

/// All methods, the most called first.
static POLICIES: [Policy; 20] = [
    sums("/sum.v1.SumService/Add"),
    counter("/sum.v1.CounterService/IncrementCounter"),
    with_large_answers(counter("/sum.v1.CounterService/BatchIncrementCounters")),
    counter("/sum.v1.CounterService/GetCounter"),
    with_large_answers(counter("/sum.v1.CounterService/BatchGetCounters")),
    Policy {
        requests: Messages::Many,
        answers: Messages::Many,
        ..counter("/sum.v1.CounterService/RecordIncrements")
    },
    Policy {
        requests: Messages::Many,
        ..sums("/sum.v1.SumService/AddAll")
    },
    Policy {
        requests: Messages::Many,
        answers: Messages::Many,
        contents: Contents::Summed(RefusedMessage::IsSkipped),
        ..sums("/sum.v1.SumService/AddEach")
    },
    health("/grpc.health.v1.Health/Check"),
    watch(health("/grpc.health.v1.Health/Watch")),
    counter("/sum.v1.CounterService/SetCounter"),
    counter("/sum.v1.CounterService/DeleteCounter"),
    with_large_answers(counter("/sum.v1.CounterService/ListCounters")),
    counter("/sum.v1.CounterService/SumCounters"),
    with_large_answers(watch(counter("/sum.v1.CounterService/WatchCounters"))),
    nodes("/sum.v1.ClusterService/ListNodes"),
    watch(nodes("/sum.v1.ClusterService/WatchNodes")),
    Policy {
        path: "/sumd.cluster.v1.PeerService/Forward",
        requests: Messages::Many,
        answers: Messages::Many,
        max_message_bytes: Some(PEER_MESSAGE_BYTES),
        ..UNARY
    },
    reflection("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
    reflection("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
];

/// The policy of a path; `None` if there is no such method.
#[must_use]
pub fn find(path: &str) -> Option<&'static Policy> {
    policies().find(|policy| policy.path == path)
}

fn policies() -> impl Iterator<Item = &'static Policy> {
    let policies = POLICIES.iter();
    #[cfg(test)]
    let policies = policies.chain(&tests::INTEROP);
    policies
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// The methods that gRPC's interop client calls.
    pub(super) static INTEROP: [Policy; 5] = [
        Policy {
            path: "/grpc.testing.TestService/EmptyCall",
            ..UNARY
        },
        with_large_answers(Policy {
            path: "/grpc.testing.TestService/UnaryCall",
            ..UNARY
        }),
        with_large_answers(Policy {
            path: "/grpc.testing.TestService/StreamingOutputCall",
            answers: Messages::Many,
            ..UNARY
        }),
        Policy {
            path: "/grpc.testing.TestService/StreamingInputCall",
            requests: Messages::Many,
            ..UNARY
        },
        with_large_answers(Policy {
            path: "/grpc.testing.TestService/FullDuplexCall",
            requests: Messages::Many,
            answers: Messages::Many,
            ..UNARY
        }),
    ];

    /// Every method of every service has exactly one row, which agrees with its definition, and there are no other
    /// rows.
    #[test]
    fn every_method_has_a_row() {
        let defined = [
            crate::proto::DESCRIPTORS,
            crate::proto::INTERNAL_DESCRIPTORS,
            crate::proto::INTEROP_DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let side = |is_stream| {
            if is_stream {
                Messages::Many
            } else {
                Messages::One
            }
        };
        let mut methods = BTreeMap::new();
        for encoded in defined {
            let set = FileDescriptorSet::decode(encoded).expect("descriptors");
            for file in set.file {
                let package = file.package().to_owned();
                for service in file.service {
                    for method in &service.method {
                        let path = format!("/{package}.{}/{}", service.name(), method.name());
                        let sides = (
                            side(method.client_streaming()),
                            side(method.server_streaming()),
                        );
                        methods.insert(path, sides);
                    }
                }
            }
        }
        let rows: BTreeMap<_, _> = policies()
            .map(|row| (row.path.to_owned(), (row.requests, row.answers)))
            .collect();
        assert_eq!(rows.len(), policies().count(), "a path has two rows");
        assert_eq!(rows, methods);
        for row in policies() {
            assert_eq!(find(row.path).map(|found| found.path), Some(row.path));
        }
        assert!(find("/sum.v1.SumService/").is_none());
        assert_eq!(PEER_MESSAGE_BYTES, crate::cluster::MAX_MESSAGE_BYTES);
    }
}
