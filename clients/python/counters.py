"""Counters: a call each for inc and get, and for watch a stream that resumes."""

import random
import secrets
import time
import uuid
from collections.abc import Iterator

import grpc

from sum.v1.counter_pb2 import (
    BatchGetCountersRequest,
    Counter,
    IncrementCounterRequest,
    WatchCountersRequest,
    WatchCountersResponse,
)
from sum.v1.counter_pb2_grpc import CounterServiceStub

DEADLINE_SECONDS = 5


def increment(
    stub: CounterServiceStub, counter: str, delta: int, request_id: str | None
) -> None:
    # All attempts of the service config have this id. If they fail with the outcome
    # UNKNOWN, or without an outcome, the same id may be sent again to find out.
    request = IncrementCounterRequest(
        counter=counter, delta=delta, request_id=request_id or uuid7()
    )
    answer = stub.IncrementCounter(request, timeout=DEADLINE_SECONDS)
    replayed = str(answer.replayed).lower()
    print(
        f"{answer.value} applied={answer.applied}"
        f" revision={answer.revision} replayed={replayed}"
    )


def uuid7() -> str:
    """An id that carries its time. Python has uuid.uuid7() from version 3.14 on."""
    milliseconds = time.time_ns() // 1_000_000
    version, variant = 7 << 76, 2 << 62
    random_bits = secrets.randbits(12) << 64 | secrets.randbits(62)
    return str(uuid.UUID(int=milliseconds << 80 | version | variant | random_bits))


def get(stub: CounterServiceStub, names: list[str]) -> None:
    request = BatchGetCountersRequest(counters=names)
    for counter in stub.BatchGetCounters(request, timeout=DEADLINE_SECONDS).counters:
        print(describe(counter))


def describe(counter: Counter) -> str:
    return f"{counter.name} {counter.value} {counter.revision}"


def watch(stub: CounterServiceStub, prefix: str, count: int) -> None:
    """After a broken stream, opens another one, from the last revision on."""
    revision, begun, pauses = 0, False, backoff()
    while True:
        request = WatchCountersRequest(prefix=prefix, from_revision=revision)
        try:
            answer: WatchCountersResponse
            for answer in stub.WatchCounters(request):
                for line in changes(answer, begun):
                    print(line, flush=True)
                    count -= 1
                    if count == 0:
                        return
                revision, begun, pauses = answer.revision, True, backoff()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        time.sleep(next(pauses))


def changes(answer: WatchCountersResponse, begun: bool) -> Iterator[str]:
    if answer.restarted and begun:
        # Deletions in between are unknown: the whole state follows.
        yield "restarted"
    yield from map(describe, answer.counters)
    for name in answer.deleted:
        yield f"{name} deleted"
    if answer.synced:
        yield f"synced {answer.revision}"


def backoff() -> Iterator[float]:
    """Pauses between attempts: each twice the last, up to a second, with jitter, so
    that the clients of a server that died do not all come to the next one together."""
    delay = 0.05
    while True:
        yield delay * random.uniform(0.8, 1.2)
        delay = min(2 * delay, 1.0)
