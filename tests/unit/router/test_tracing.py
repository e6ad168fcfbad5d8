"""Whose trace a request belongs to: W3C trace context, the valid and the broken."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.errors import QueueFull
from modelmora_router.calls import Answer
from modelmora_router.spans import failed_span, spans_of
from modelmora_router.tracing import TraceParent, context_of, parsed, trace_id
from tests.support.routing import call

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"

BROKEN = {
    "empty": "",
    "no header": "hello",
    "upper case": HEADER.upper(),
    "trace of zeros": f"00-{'0' * 32}-{SPAN}-01",
    "span of zeros": f"00-{TRACE}-{'0' * 16}-01",
    "forbidden version": f"ff-{TRACE}-{SPAN}-01",
    "short trace": f"00-{TRACE[:-1]}-{SPAN}-01",
    "more in version 0": f"{HEADER}-what",
    "more glued to it": f"{HEADER}0",
    "a line more": f"{HEADER}\n",
    "digits of another script": HEADER.replace("7", "\u0667"),
}


@pytest.mark.req("REQ-OBS-004", "RM-2.6g")
def test_a_request_is_in_the_trace_of_its_caller_with_a_span_of_its_own() -> None:
    own = parsed(context_of(HEADER))
    assert own is not None
    assert (own.trace_id, own.flags) == (TRACE, "01")
    assert own.span_id != SPAN
    assert parsed(context_of(HEADER)) != own, "two requests, two spans"


def test_a_later_version_that_says_more_is_understood() -> None:
    own = parsed(context_of(f"cc-{TRACE}-{SPAN}-00-more"))
    assert own is not None
    assert (own.trace_id, own.flags) == (TRACE, "00")


@pytest.mark.parametrize("header", BROKEN.values(), ids=BROKEN)
def test_a_broken_header_is_treated_as_none(header: str) -> None:
    assert parsed(header) is None
    own = parsed(context_of(header))
    assert own is not None
    assert own.trace_id != TRACE


@given(st.one_of(st.text(), st.text(alphabet=string.hexdigits + "-", min_size=50, max_size=60)))
def test_whatever_comes_a_valid_one_goes_on(header: str) -> None:
    assert parsed(context_of(header)) is not None


def test_the_trace_of_a_traceparent() -> None:
    assert trace_id(HEADER) == TRACE
    assert trace_id("") == ""
    assert parsed(HEADER) == TraceParent(TRACE, SPAN, "01")


# ---------------------------------------------------------------------------------------------------- spans


def test_the_spans_of_an_answer_lie_in_one_another() -> None:
    answer = Answer(
        model_id="one",
        version="2.0.0",
        output=b"",
        queue_ms=7.0,
        inference_ms=3.0,
        total_ms=12.0,
        request_id="r",
        batch_size=4,
    )
    request, queue, inference = spans_of(call(), answer, now=1_000_000_000)
    assert (request.name, request.begin, request.end) == ("request", 988_000_000, 1_000_000_000)
    assert (queue.name, queue.begin, queue.end) == ("queue", 988_000_000, 995_000_000)
    assert (inference.name, inference.begin, inference.end) == ("inference", 997_000_000, 1_000_000_000)
    assert request.attributes["modelmora.version"] == "2.0.0"
    assert inference.attributes == {"modelmora.batch_size": 4}


def test_a_worker_that_says_that_it_took_longer_than_the_request_did_took_all_of_it() -> None:
    answer = Answer(
        model_id="one", version="1.0.0", output=b"", queue_ms=0.0, inference_ms=9.0, total_ms=2.0, request_id="r"
    )
    request, queue, inference = spans_of(call(), answer, now=1_000_000_000)
    assert (request.begin, queue.begin, inference.begin) == (998_000_000,) * 3


def test_the_span_of_a_failure_names_its_code() -> None:
    span = failed_span(call(), QueueFull("full"), waited_s=0.5, now=1_000_000_000)
    assert (span.begin, span.end, span.error) == (500_000_000, 1_000_000_000, "full")
    assert span.attributes["error.type"] == "QUEUE_FULL"
