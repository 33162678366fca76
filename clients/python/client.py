"""A client of sumd, the gRPC service that adds numbers: see README.md."""

import argparse
import json
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.rpc.code_pb2 import Code
from grpc_status import rpc_status

from counters import get, increment, watch
from errors import details
from record import record
from sum.v1.counter_pb2_grpc import CounterServiceStub
from sum.v1.sum_pb2 import AddEachRequest, AddEachResponse, AddRequest
from sum.v1.sum_pb2_grpc import SumServiceStub

ADD_DEADLINE_SECONDS = 5
LOAD_WORKERS = 4

RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

# Calls rotate over the servers that report themselves healthy. Sums have no side
# effects, so a call that a dying server left unanswered is sent again, to the next
# server. Streams live as long as their input: they have no timeout, so they must not
# wait for a server for ever either.
#
# An increment is sent again, too, but only because each has a request_id here, by which
# the server counts it once. The streams of counters have no policy: they resume after
# the last response that they received.
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "sum.v1.SumService"},
    "methodConfig": [
        {
            "name": [{"service": "sum.v1.SumService", "method": "Add"}],
            "waitForReady": True,
            "timeout": "5s",
            "retryPolicy": RETRY_POLICY,
        },
        {"name": [{"service": "sum.v1.SumService"}], "retryPolicy": RETRY_POLICY},
        {
            "name": [
                {"service": "sum.v1.CounterService", "method": "IncrementCounter"},
                {"service": "sum.v1.CounterService", "method": "BatchGetCounters"},
            ],
            "waitForReady": True,
            "timeout": "5s",
            "retryPolicy": RETRY_POLICY,
        },
    ],
}


def connect(addresses: str) -> grpc.Channel:
    first, *others = addresses.split(",")
    options = [("grpc.service_config", json.dumps(SERVICE_CONFIG))]
    if not others:
        # If a DNS name has an address for each server, gRPC balances over them.
        return grpc.insecure_channel(first, options)
    # A list must have IP addresses.
    target = "ipv4:" + ",".join(map(resolve, (first, *others)))
    return grpc.insecure_channel(target, options)


def resolve(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{socket.gethostbyname(host)}:{port}"


def add(stub: SumServiceStub, values: Iterable[int]) -> int:
    return stub.Add(AddRequest(values=values), timeout=ADD_DEADLINE_SECONDS).sum


def each(stub: SumServiceStub, lines: Iterable[str]) -> None:
    unreadable: list[str] = []

    # gRPC runs this on a thread of its own, as fast as flow control allows and while
    # responses are being read. An exception would end the stream with an UNKNOWN
    # status, so it notes the line instead, and the lines before get their responses.
    def requests() -> Iterator[AddEachRequest]:
        for number, line in enumerate(lines, 1):
            try:
                yield AddEachRequest(values=map(int, line.split()))
            except ValueError as error:
                unreadable.append(f"line {number}: {error}")
                return

    answer: AddEachResponse
    for answer in stub.AddEach(requests()):
        if answer.WhichOneof("result") == "error":
            code, why = Code.Name(answer.error.code), "; ".join(details(answer.error))
            print(f"error: {code} {answer.error.message} ({why})")
        else:
            print(answer.sum)
    if unreadable:
        raise ValueError(*unreadable)


def load(stub: SumServiceStub, seconds: float) -> None:
    end = time.monotonic() + seconds
    errors: list[Exception] = []

    def work() -> int:
        n = 0
        while time.monotonic() < end:
            try:
                if (answer := add(stub, [n, 1])) != n + 1:
                    raise ValueError(f"{n} + 1 was answered by {answer}")
            except (grpc.RpcError, ValueError) as error:
                errors.append(error)
            n += 1
        return n

    with ThreadPoolExecutor(LOAD_WORKERS) as pool:
        workers = [pool.submit(work) for _ in range(LOAD_WORKERS)]
    print(f"calls={sum(worker.result() for worker in workers)} failed={len(errors)}")
    if errors:
        raise errors[0]


def int64(text: str) -> int:
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{text} does not fit 64 bits")
    return value


def natural(text: str) -> int:
    if (value := int64(text)) < 1:
        raise ValueError(f"{text} is not above 0")
    return value


# The help of each command, and its arguments after ADDRESSES.
COMMANDS = {
    "add": ("print the sum of the values", [("value", int64, "+")]),
    "each": ("print the sum of each line of standard input", []),
    "load": (
        "call Add for that time, and count the failures",
        [("seconds", float, None)],
    ),
    "inc": (
        "add to a counter, exactly once",
        [("counter", str, None), ("delta", int64, None), ("request_id", str, "?")],
    ),
    "get": ("print the values of counters", [("counter", str, "+")]),
    "watch": (
        "print COUNT lines of state and changes",
        [("prefix", str, None), ("count", natural, None)],
    ),
    "record": (
        "add each line of standard input, COUNTER DELTA, exactly once; the time is that"
        " of the session's beginning, or 0 if its id is a UUIDv7",
        [("session_id", str, None), ("session_time_ms", int64, None)],
    ),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A client of sumd.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (text, positionals) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "addresses", metavar="ADDRESSES", help="comma-separated list of host:port"
        )
        for positional, kind, count in positionals:
            command.add_argument(
                positional, metavar=positional.upper(), type=kind, nargs=count
            )
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        with connect(args.addresses) as channel:
            sums, counters = SumServiceStub(channel), CounterServiceStub(channel)
            match args.command:
                case "add":
                    print(add(sums, args.value))
                case "each":
                    each(sums, sys.stdin)
                case "load":
                    load(sums, args.seconds)
                case "inc":
                    increment(counters, args.counter, args.delta, args.request_id)
                case "get":
                    get(counters, args.counter)
                case "watch":
                    watch(counters, args.prefix, args.count)
                case "record":
                    record(counters, args.session_id, args.session_time_ms, sys.stdin)
    except grpc.RpcError as error:
        print(f"error: {error.code().name}: {error.details()}", file=sys.stderr)
        if status := rpc_status.from_call(error):
            for detail in details(status):
                print(f"  {detail}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
