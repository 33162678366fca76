"""The details of an error, of calls and of the items of a stream alike."""

from collections.abc import Iterator

from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status


def reason(status: Status) -> str:
    info = ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "")


def details(status: Status) -> Iterator[str]:
    """The part by which programs decide: the message is for people, and may change."""
    for detail in status.details:
        info, request, retry = ErrorInfo(), BadRequest(), RetryInfo()
        if detail.Unpack(info):
            pairs = {
                "reason": info.reason,
                "domain": info.domain,
                **dict(sorted(info.metadata.items())),
            }
            yield ", ".join(f"{key}={value}" for key, value in pairs.items())
        elif detail.Unpack(request):
            for violation in request.field_violations:
                yield f"{violation.field}: {violation.description}"
        elif detail.Unpack(retry):
            yield f"retry_delay={retry.retry_delay.ToTimedelta().total_seconds():g}s"
        else:
            yield detail.type_url
