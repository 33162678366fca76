"""A bulk session: increments by the thousand, each exactly once."""

import time
from collections.abc import Iterable, Iterator
from threading import Condition, Thread

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import Code

from counters import backoff
from errors import reason
from sum.v1.counter_pb2 import (
    Increment,
    RecordIncrementsRequest,
    RecordIncrementsResponse,
)
from sum.v1.counter_pb2_grpc import CounterServiceStub

INCREMENTS_PER_MESSAGE = 100
# The longest time to retry without progress.
PATIENCE_SECONDS = 30

RETRYABLE = (
    grpc.StatusCode.UNAVAILABLE,  # the stream broke, or the server is stopping
    grpc.StatusCode.DEADLINE_EXCEEDED,  # the input was silent for too long
    # The server's memory is full, or failures are to be acknowledged first.
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


def record(
    stub: CounterServiceStub, session_id: str, begin_ms: int, lines: Iterable[str]
) -> None:
    """Adds each line exactly once. After a crash of the client, the same command with
    the same input finishes the work: acknowledged messages are not sent again."""
    session = Session(session_id, begin_ms)
    Thread(target=session.read, args=[lines], daemon=True).start()
    try:
        session.run(stub)
    finally:
        print(f"acknowledged={session.acknowledged} failed={session.failed}")
    if session.input_error:
        raise session.input_error


def messages(lines: Iterable[str]) -> Iterator[list[Increment]]:
    """Stops at an invalid line, and leaves out its message. So messages have the same
    numbers and contents when the command runs again with the line fixed."""
    message: list[Increment] = []
    for number, line in enumerate(lines, 1):
        # A counter's name may have spaces.
        counter, space, delta = line.rstrip("\n").rpartition(" ")
        try:
            if not space:
                raise ValueError(f"{delta!r} is not a counter and a delta")
            message.append(Increment(counter=counter, delta=int(delta)))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if len(message) == INCREMENTS_PER_MESSAGE:
            yield message
            message = []
    if message:
        yield message


class Session:
    """A session outlives its streams: unacknowledged messages are kept, and sent again,
    unchanged, on the next stream. Three threads share it: one reads the input, one of
    gRPC's sends, and one receives."""

    def __init__(self, session_id: str, begin_ms: int) -> None:
        self.id = session_id
        self.time = None  # the id carries it
        if begin_ms:
            self.time = Timestamp()
            self.time.FromMilliseconds(begin_ms)

        self.changed = Condition()  # of the fields below
        self.acknowledged = 0
        # The increments of the messages acknowledged + 1, acknowledged + 2 and so on.
        self.unacknowledged: list[list[Increment]] = []
        self.window = 0  # until the stream's first response
        self.input_ended = False
        self.input_error: Exception | None = None
        self.failed = 0
        self.progress = True  # whether there was progress since this was False

    def read(self, lines: Iterable[str]) -> None:
        try:
            for sequence, message in enumerate(messages(lines), 1):
                with self.changed:
                    self.changed.wait_for(
                        lambda: len(self.unacknowledged) < self.window
                    )
                    if sequence > self.acknowledged:  # else an earlier run sent it
                        self.unacknowledged.append(message)
                        self.changed.notify_all()
        except (OSError, ValueError) as error:
            self.input_error = error
        with self.changed:
            self.input_ended = True
            self.changed.notify_all()

    def done(self) -> bool:
        return self.input_ended and not self.unacknowledged

    def run(self, stub: CounterServiceStub) -> None:
        """Opens one stream after the other until all messages are acknowledged."""
        pauses, give_up = backoff(), 0.0
        while True:
            error: Exception = ConnectionError("the server ended the stream early")
            try:
                self.stream(stub)
            except grpc.RpcError as broken:
                error = broken
            if self.done():
                return
            if isinstance(error, grpc.RpcError) and error.code() not in RETRYABLE:
                raise error
            if self.progress:
                pauses, give_up = backoff(), time.monotonic() + PATIENCE_SECONDS
                self.progress = False
            pause = next(pauses)
            if time.monotonic() + pause > give_up:
                raise error
            time.sleep(pause)

    def stream(self, stub: CounterServiceStub) -> None:
        """Exchanges messages on one stream."""
        ended = False

        def requests() -> Iterator[RecordIncrementsRequest]:
            # This names the session. The response has the last acknowledged message,
            # and the window.
            yield RecordIncrementsRequest(
                session_id=self.id,
                session_time=self.time,
                acknowledged=self.acknowledged,
            )
            sent = 0
            while True:
                with self.changed:
                    self.changed.wait_for(
                        lambda: ended or self.done() or self.may_send_after(sent)
                    )
                    if ended or self.done():
                        break
                    sent = max(sent, self.acknowledged) + 1
                    message = RecordIncrementsRequest(
                        sequence=sent,
                        acknowledged=self.acknowledged,
                        increments=self.unacknowledged[sent - self.acknowledged - 1],
                    )
                yield message
            # This lets the server drop the last failures.
            yield RecordIncrementsRequest(acknowledged=self.acknowledged)

        self.window = 0
        try:
            answer: RecordIncrementsResponse
            for answer in stub.RecordIncrements(requests()):
                self.acknowledge(answer)
        finally:
            with self.changed:
                ended = True
                self.changed.notify_all()

    def may_send_after(self, sent: int) -> bool:
        sendable = min(self.window, len(self.unacknowledged))
        return max(sent, self.acknowledged) < self.acknowledged + sendable

    def acknowledge(self, answer: RecordIncrementsResponse) -> None:
        for failure in answer.failures:
            if failure.sequence > self.acknowledged:  # else known from an earlier stream
                self.failed += 1
                print(
                    f"failed {failure.sequence} {failure.index}"
                    f" {Code.Name(failure.error.code)} reason={reason(failure.error)}",
                    flush=True,  # before the failure is acknowledged
                )
        with self.changed:
            news = max(answer.acknowledged - self.acknowledged, 0)
            del self.unacknowledged[:news]
            self.acknowledged += news
            self.window = answer.window
            # A stream on which nothing was left to do counts as progress, too.
            self.progress |= news > 0 or not self.unacknowledged
            self.changed.notify_all()
