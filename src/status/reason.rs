//! Declares every error reason once, with its code, the outcome of the call, and whether to retry.

use tonic::Code;

use crate::model::Outcome;

/// Whether and when a client should retry the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call fails again.
    No,
    /// The same call may succeed after a fix: of a clock, of a disk, or by sending earlier messages.
    OnceFixed,
    /// The same call may succeed, at once or on another server.
    AtOnce,
    /// The same call may succeed after the delay of the error's `RetryInfo`.
    AfterDelay,
}

impl Retry {
    /// The wording in the documentation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnceFixed => "once fixed",
            Self::AtOnce => "at once",
            Self::AfterDelay => "after RetryInfo",
        }
    }
}

/// Declares the reasons. With the outcome `Either`, each error sets its own.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal: $code:ident, $outcome:tt, $retry:ident;)*) => {
        /// The reason of an error, which a program can act on; `docs/errors.md` has a section for each.
        ///
        /// A reason is public: its name, its code and its meaning never change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The `reason` of an `ErrorInfo`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The status code of its errors.
            #[must_use]
            pub const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }

            /// The outcome of its errors, or `None` if each error sets its own.
            #[must_use]
            pub const fn outcome(self) -> Option<Outcome> {
                match self { $(Self::$variant => reasons!(@outcome $outcome),)* }
            }

            /// Whether and when to retry the call.
            #[must_use]
            pub const fn retry(self) -> Retry {
                match self { $(Self::$variant => Retry::$retry,)* }
            }
        }
    };
    (@outcome Either) => { None };
    (@outcome $outcome:ident) => { Some(Outcome::$outcome) };
}

reasons! {
    // Any call.
    /// A message is over the server's size limit.
    MessageTooLarge = "MESSAGE_TOO_LARGE": ResourceExhausted, NotApplied, No;
    /// The memory for unfinished requests is full.
    RequestMemoryFull = "REQUEST_MEMORY_FULL": ResourceExhausted, NotApplied, AfterDelay;
    /// The headers of the call are over the server's limit.
    HeadersTooLarge = "HEADERS_TOO_LARGE": ResourceExhausted, NotApplied, No;
    /// The connection has too many watches.
    TooManyWatches = "TOO_MANY_WATCHES": ResourceExhausted, NotApplied, OnceFixed;
    /// A message is not valid protobuf, or cannot be decompressed, or the request ends inside one.
    MalformedMessage = "MALFORMED_MESSAGE": Internal, NotApplied, No;
    /// The `grpc-timeout` header is malformed.
    InvalidTimeout = "INVALID_TIMEOUT": Internal, NotApplied, No;
    /// The server has an internal error.
    Panic = "PANIC": Internal, Unknown, No;
    /// A method that takes one message got none, or more than one.
    MessageCount = "MESSAGE_COUNT": Unimplemented, NotApplied, No;
    /// The request is compressed in an unknown encoding.
    CompressedMessage = "COMPRESSED_MESSAGE": Unimplemented, NotApplied, No;
    /// The method does not exist.
    UnknownMethod = "UNKNOWN_METHOD": Unimplemented, NotApplied, No;
    /// The health check asks for an unknown service.
    UnknownService = "UNKNOWN_SERVICE": NotFound, NotApplied, No;
    /// The deadline of the call has passed.
    DeadlineExceeded = "DEADLINE_EXCEEDED": DeadlineExceeded, Unknown, AtOnce;
    /// The client has sent nothing for too long.
    StreamIdle = "STREAM_IDLE": DeadlineExceeded, NotApplied, AtOnce;
    /// Too many calls, connections or increments at once.
    Overloaded = "OVERLOADED": Unavailable, Either, AfterDelay;
    /// The server is shutting down.
    ShuttingDown = "SHUTTING_DOWN": Unavailable, Either, AfterDelay;

    // Sums.
    /// The sum does not fit int64.
    SumOutOfRange = "SUM_OUT_OF_RANGE": OutOfRange, NotApplied, No;

    // Counters.
    /// Fields of the request are invalid.
    InvalidArgument = "INVALID_ARGUMENT": InvalidArgument, NotApplied, No;
    /// The value would pass `min` or `max`.
    LimitReached = "LIMIT_REACHED": FailedPrecondition, NotApplied, No;
    /// The value would leave int64.
    CounterOutOfRange = "COUNTER_OUT_OF_RANGE": OutOfRange, NotApplied, No;
    /// The request id was used for a request with other contents.
    RequestIdReused = "REQUEST_ID_REUSED": AlreadyExists, NotApplied, No;
    /// The request id is so old that it may have been forgotten.
    RequestTooOld = "REQUEST_TOO_OLD": FailedPrecondition, NotApplied, No;
    /// The time of the request id is in the future.
    RequestFromFuture = "REQUEST_FROM_FUTURE": FailedPrecondition, NotApplied, OnceFixed;
    /// The deduplication memory has no room for another request id.
    RequestIdsFull = "REQUEST_IDS_FULL": ResourceExhausted, NotApplied, AfterDelay;
    /// The answer of a node that may have applied the request was lost.
    AnswerLost = "ANSWER_LOST": Unavailable, Unknown, AfterDelay;
    /// The store cannot be reached at present.
    StoreUnavailable = "STORE_UNAVAILABLE": Unavailable, Either, AfterDelay;
    /// The store has failed, and the server stops.
    StoreFailed = "STORE_FAILED": Unavailable, Either, AfterDelay;
    /// The disk is full, or etcd is over its quota.
    StoreFull = "STORE_FULL": ResourceExhausted, Either, AfterDelay;
    /// The stored row of a counter is damaged.
    CounterDamaged = "COUNTER_DAMAGED": DataLoss, Either, OnceFixed;

    // Bulk streams.
    /// A message came before its predecessor.
    SequenceGap = "SEQUENCE_GAP": FailedPrecondition, Either, OnceFixed;
    /// A message was sent again that the client had declared acknowledged.
    SequenceAcknowledged = "SEQUENCE_ACKNOWLEDGED": FailedPrecondition, Either, No;
    /// A message was sent again with other increments.
    SequenceReused = "SEQUENCE_REUSED": AlreadyExists, Either, No;
    /// The server knows fewer messages of the session than the client has acknowledged.
    SessionLost = "SESSION_LOST": FailedPrecondition, Either, OnceFixed;
    /// The session is unknown, and so old that it may have been forgotten.
    SessionTooOld = "SESSION_TOO_OLD": FailedPrecondition, Either, No;
    /// The time of the session is in the future.
    SessionFromFuture = "SESSION_FROM_FUTURE": FailedPrecondition, Either, OnceFixed;
    /// There is no room for another session, or for more failures.
    SessionsFull = "SESSIONS_FULL": ResourceExhausted, Either, AfterDelay;
    /// An earlier message is still on its way through another node.
    MessageOvertaken = "MESSAGE_OVERTAKEN": Unavailable, Either, AfterDelay;
    /// The client has too many unacknowledged failures.
    FailuresUnacknowledged = "FAILURES_UNACKNOWLEDGED": ResourceExhausted, Either, OnceFixed;
    /// The stored row of the session is damaged.
    SessionDamaged = "SESSION_DAMAGED": DataLoss, Unknown, No;
}
