//! The parts of `counter.proto` that the bench needs.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub struct IncrementCounterRequest {
    #[prost(string, tag = "1")]
    pub counter: String,
    #[prost(sint64, tag = "2")]
    pub delta: i64,
    #[prost(string, tag = "3")]
    pub request_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct IncrementCounterResponse {
    #[prost(sint64, tag = "2")]
    pub applied: i64,
    #[prost(bool, tag = "4")]
    pub replayed: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Increment {
    #[prost(string, tag = "1")]
    pub counter: String,
    #[prost(sint64, tag = "2")]
    pub delta: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct RecordIncrementsRequest {
    #[prost(string, tag = "1")]
    pub session_id: String,
    #[prost(message, repeated, tag = "5")]
    pub increments: Vec<Increment>,
}

/// The fields of a `RecordIncrementsRequest` that are encoded by hand.
pub const SEQUENCE: u32 = 3;
pub const ACKNOWLEDGED: u32 = 4;

#[derive(Clone, PartialEq, Message)]
pub struct RecordIncrementsResponse {
    #[prost(uint64, tag = "1")]
    pub acknowledged: u64,
    #[prost(message, repeated, tag = "3")]
    pub failures: Vec<IncrementFailure>,
    #[prost(uint32, tag = "4")]
    pub window: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct IncrementFailure {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(uint32, tag = "2")]
    pub index: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetCounterRequest {
    #[prost(string, tag = "1")]
    pub counter: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetCounterResponse {
    #[prost(message, optional, tag = "1")]
    pub counter: Option<Counter>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Counter {
    #[prost(int64, tag = "2")]
    pub value: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct SumCountersRequest {
    #[prost(string, tag = "1")]
    pub prefix: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct SumCountersResponse {
    #[prost(int64, tag = "1")]
    pub sum: i64,
    #[prost(int64, tag = "2")]
    pub count: i64,
}

/// From `grpc.health.v1`.
#[derive(Clone, PartialEq, Message)]
pub struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub service: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// The status of a service that serves.
pub const SERVING: i32 = 1;
