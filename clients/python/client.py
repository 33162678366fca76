"""A client of sumd, the gRPC service that sums integers: see README.md."""

import argparse
import json
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

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

# Calls go round the servers that report themselves healthy. Sums have no side effects,
# so a call that a dying server left unanswered is simply sent again, to the next one.
# Streams live as long as their input: they have no timeout, and so must not wait for
# ever for a server either.
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
    ],
}


def connect(addresses: str) -> grpc.Channel:
    first, *others = addresses.split(",")
    options = [("grpc.service_config", json.dumps(SERVICE_CONFIG))]
    if not others:
        # A DNS name with an address for each server is balanced over as it is.
        return grpc.insecure_channel(first, options)
    # A list has to be one of IP addresses. It would be sent as the calls' :authority
    # too, where servers refuse the commas.
    target = "ipv4:" + ",".join(map(resolve, (first, *others)))
    options.append(("grpc.default_authority", first))
    return grpc.insecure_channel(target, options)


def resolve(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{socket.gethostbyname(host)}:{port}"


def add(stub: SumServiceStub, values: Iterable[int]) -> int:
    return stub.Add(AddRequest(values=values), timeout=ADD_DEADLINE_SECONDS).sum


def each(stub: SumServiceStub, lines: Iterable[str]) -> None:
    unreadable: list[str] = []

    # gRPC runs this on a thread of its own, as fast as flow control allows and while
    # answers are being read. What it raised would only end the stream with an UNKNOWN
    # status: it leaves a note instead, and the lines before get their answers.
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


def details(status: Status) -> Iterator[str]:
    """What programs go by: the message of a status is for people, and may change."""
    for detail in status.details:
        info, retry = ErrorInfo(), RetryInfo()
        if detail.Unpack(info):
            pairs = {
                "reason": info.reason,
                "domain": info.domain,
                **dict(sorted(info.metadata.items())),
            }
            yield ", ".join(f"{key}={value}" for key, value in pairs.items())
        elif detail.Unpack(retry):
            yield f"retry_delay={retry.retry_delay.ToTimedelta().total_seconds():g}s"
        else:
            yield detail.type_url


def int64(text: str) -> int:
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{text} does not fit 64 bits")
    return value


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A client of sumd.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("add", "print the sum of the values"),
        ("each", "print the sum of each line of standard input"),
        ("load", "call Add for so long, and count the failures"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "addresses", metavar="ADDRESSES", help="comma-separated list of host:port"
        )
        if name == "add":
            command.add_argument("values", metavar="VALUE", type=int64, nargs="+")
        if name == "load":
            command.add_argument("seconds", metavar="SECONDS", type=float)
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        with connect(args.addresses) as channel:
            stub = SumServiceStub(channel)
            match args.command:
                case "add":
                    print(add(stub, args.values))
                case "each":
                    each(stub, sys.stdin)
                case "load":
                    load(stub, args.seconds)
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
