"""W3C trace context: whose trace a request belongs to. https://www.w3.org/TR/trace-context/

A header that is no valid `traceparent` is treated as none, as the standard asks: a caller's broken tracing must not
keep it from its answer.
"""

import re
import secrets
from typing import Final, NamedTuple

TRACE_HEADER: Final = "traceparent"

_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_VERSION: Final = "00"
_FORBIDDEN_VERSION: Final = "ff"
_NOT_SAMPLED: Final = "00"
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


class TraceParent(NamedTuple):
    """What the header says, in hexadecimal digits."""

    trace_id: str
    span_id: str
    flags: str


def parsed(header: str) -> TraceParent | None:
    """What a header says; None if it is no valid one."""
    match = _FORM.fullmatch(header) if header else None
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    if version == _FORBIDDEN_VERSION or trace == _NO_TRACE or span == _NO_SPAN:
        return None
    if version == _VERSION and more is not None:  # a later version may say more; this one may not
        return None
    return TraceParent(trace, span, flags)


def context_of(header: str) -> str:
    """The traceparent of this request: in the caller's trace, or in a new one where there is none."""
    caller = parsed(header)
    if caller is None:
        return f"{_VERSION}-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{_NOT_SAMPLED}"
    return f"{_VERSION}-{caller.trace_id}-{secrets.token_hex(8)}-{caller.flags}"


def trace_id(traceparent: str) -> str:
    """Of a traceparent as `context_of` gives it; empty for an empty one."""
    return traceparent[3:35]
