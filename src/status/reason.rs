//! Every reason of an error, declared once: its code, the outcome of the call, and whether to retry.

use tonic::Code;

use crate::model::Outcome;

/// What a client does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call fails again.
    No,
    /// The same call may succeed once something is fixed: a clock, a disk, the messages before it.
    OnceFixed,
    /// The same call may succeed, at once or on another server.
    AtOnce,
    /// The same call may succeed after the delay of the error's `RetryInfo`.
    AfterDelay,
}

impl Retry {
    /// The word of the documentation.
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

/// Declares the reasons. An outcome of `Either` is given by each error by itself.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal: $code:ident, $outcome:tt, $retry:ident;)*) => {
        /// The reason of an error, which a program can act on; `docs/errors.md` has a section for each.
        ///
        /// A reason is public: it keeps its name, its code and its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The `reason` of an `ErrorInfo`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The code of its errors.
            #[must_use]
            pub const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }

            /// The outcome of its errors; `None` if each error has its own.
            #[must_use]
            pub const fn outcome(self) -> Option<Outcome> {
                match self { $(Self::$variant => reasons!(@outcome $outcome),)* }
            }

            /// Whether the call is worth another try.
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
    // Of any call.
    /// A message is over the server's size limit.
    MessageTooLarge = "MESSAGE_TOO_LARGE": ResourceExhausted, NotApplied, No;
    /// The headers of the call are over the server's limit.
    HeadersTooLarge = "HEADERS_TOO_LARGE": ResourceExhausted, NotApplied, No;
    /// A watch is one too many for its connection.
    TooManyWatches = "TOO_MANY_WATCHES": ResourceExhausted, NotApplied, OnceFixed;
    /// A message is not valid protobuf, or the request ends inside one.
    MalformedMessage = "MALFORMED_MESSAGE": Internal, NotApplied, No;
    /// The `grpc-timeout` header has no valid form.
    InvalidTimeout = "INVALID_TIMEOUT": Internal, NotApplied, No;
    /// The server has a fault.
    Panic = "PANIC": Internal, Unknown, No;
    /// A method that takes one message was sent none, or more than one.
    MessageCount = "MESSAGE_COUNT": Unimplemented, NotApplied, No;
    /// The request is compressed.
    CompressedMessage = "COMPRESSED_MESSAGE": Unimplemented, NotApplied, No;
    /// There is no method of that name.
    UnknownMethod = "UNKNOWN_METHOD": Unimplemented, NotApplied, No;
    /// A health check asks for a service that the server does not have.
    UnknownService = "UNKNOWN_SERVICE": NotFound, NotApplied, No;
    /// The deadline of the call has passed.
    DeadlineExceeded = "DEADLINE_EXCEEDED": DeadlineExceeded, Unknown, AtOnce;
    /// The client has sent nothing for too long.
    StreamIdle = "STREAM_IDLE": DeadlineExceeded, NotApplied, AtOnce;
    /// Too many calls, connections or increments.
    Overloaded = "OVERLOADED": Unavailable, Either, AfterDelay;
    /// The server stops.
    ShuttingDown = "SHUTTING_DOWN": Unavailable, Either, AfterDelay;

    // Of sums.
    /// A sum does not fit int64.
    SumOutOfRange = "SUM_OUT_OF_RANGE": OutOfRange, NotApplied, No;

    // Of counters.
    /// Fields of the request are wrong.
    InvalidArgument = "INVALID_ARGUMENT": InvalidArgument, NotApplied, No;
    /// The value would pass `min` or `max`.
    LimitReached = "LIMIT_REACHED": FailedPrecondition, NotApplied, No;
    /// The value would leave int64.
    CounterOutOfRange = "COUNTER_OUT_OF_RANGE": OutOfRange, NotApplied, No;
    /// The request id was used for a request with other contents.
    RequestIdReused = "REQUEST_ID_REUSED": AlreadyExists, NotApplied, No;
    /// The request id is so old that it may be forgotten.
    RequestTooOld = "REQUEST_TOO_OLD": FailedPrecondition, NotApplied, No;
    /// The request id is of a time to come.
    RequestFromFuture = "REQUEST_FROM_FUTURE": FailedPrecondition, NotApplied, OnceFixed;
    /// There is no room to remember another request id.
    RequestIdsFull = "REQUEST_IDS_FULL": ResourceExhausted, NotApplied, AfterDelay;
    /// The answer of a node that may have applied the request is lost.
    AnswerLost = "ANSWER_LOST": Unavailable, Unknown, AfterDelay;
    /// The store cannot be reached just now.
    StoreUnavailable = "STORE_UNAVAILABLE": Unavailable, Either, AfterDelay;
    /// The store has failed, and the server stops.
    StoreFailed = "STORE_FAILED": Unavailable, Either, AfterDelay;
    /// The disk is full, or etcd is over its quota.
    StoreFull = "STORE_FULL": ResourceExhausted, Either, AfterDelay;
    /// The stored row of a counter is damaged.
    CounterDamaged = "COUNTER_DAMAGED": DataLoss, Either, OnceFixed;

    // Of bulk streams.
    /// A message came before its predecessor.
    SequenceGap = "SEQUENCE_GAP": FailedPrecondition, Either, OnceFixed;
    /// A message was sent again that the client had said is acknowledged.
    SequenceAcknowledged = "SEQUENCE_ACKNOWLEDGED": FailedPrecondition, Either, No;
    /// A message was sent again with other increments.
    SequenceReused = "SEQUENCE_REUSED": AlreadyExists, Either, No;
    /// The server knows fewer messages of the session than the client has acknowledged.
    SessionLost = "SESSION_LOST": FailedPrecondition, Either, OnceFixed;
    /// The session is not known, and so old that it may be forgotten.
    SessionTooOld = "SESSION_TOO_OLD": FailedPrecondition, Either, No;
    /// The session is of a time to come.
    SessionFromFuture = "SESSION_FROM_FUTURE": FailedPrecondition, Either, OnceFixed;
    /// There is no room to remember another session, or more failures.
    SessionsFull = "SESSIONS_FULL": ResourceExhausted, Either, AfterDelay;
    /// A message before it is on its way by another node.
    MessageOvertaken = "MESSAGE_OVERTAKEN": Unavailable, Either, AfterDelay;
    /// The client has too many failures to acknowledge.
    FailuresUnacknowledged = "FAILURES_UNACKNOWLEDGED": ResourceExhausted, Either, OnceFixed;
    /// The stored row of the session is damaged.
    SessionDamaged = "SESSION_DAMAGED": DataLoss, Unknown, No;
}
