"""What a person sees of a running `modelmora serve`: its metrics, and a log in which one request can be followed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from tests.support.scripted import scripted
from tests.support.servers import Server, serving, wait_for

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("observed")
    scripted(root / "models", "one")
    with serving(root / "models", root, "--log-format", "json", "--log-level", "debug") as server:
        yield server


def logged(server: Server) -> list[dict[str, Any]]:
    """The lines of the log, of which each is JSON. Its first lines on stdout are for the person who started it."""
    whole = server.log().rpartition("\n")[0]
    return [json.loads(line) for line in whole.split("\n") if line.startswith("{") or not announced(line)]


def announced(line: str) -> bool:
    return not line or line.startswith((" ", "ModelMora", "REST", "gRPC", "Ctrl"))


def infer(server: Server, **parameters: Any) -> str:
    """The id of a request."""
    body = {"input": {"text": "a"}, "parameters": parameters}
    with server.http() as http:
        return http.post("/api/v1/infer/one", json=body, headers=HEADERS).headers["x-request-id"]


def of_request(server: Server, request_id: str, last: str) -> list[dict[str, Any]]:
    """The lines about a request, as soon as one of them is the last."""

    def found() -> list[dict[str, Any]] | None:
        lines = [line for line in logged(server) if line.get("request_id") == request_id]
        names = [line["event"] for line in lines if line["logger"].startswith("modelmora_router")]
        return lines if last in names else None

    return wait_for(found, within_s=60, what=f"the line {last!r} about {request_id}")


@pytest.mark.req("REQ-OBS-003b", "REQ-OBS-004", "REQ-OBS-002a", "RM-2.6e")
def test_a_request_can_be_followed_by_its_id_from_arrival_to_answer(server: Server) -> None:
    lines = of_request(server, infer(server), "request completed")
    events = [line["event"] for line in lines if line["logger"].startswith("modelmora_router")]
    assert events == ["request received", "request queued", "request started", "request completed"]
    assert {line["trace_id"] for line in lines} == {TRACE}
    assert [line["event"] for line in lines if line["logger"].startswith("modelmora_worker")], "the worker says it too"


@pytest.mark.req("REQ-OBS-003c")
def test_an_engine_that_raises_leaves_its_traceback_beside_the_id(server: Server) -> None:
    lines = of_request(server, infer(server, fail="as asked for"), "request failed")
    (traceback,) = [line["exception"] for line in lines if "exception" in line]
    assert "ValueError: as asked for" in traceback
    assert "in _answer" in traceback


@pytest.mark.req("REQ-OBS-003a")
def test_loads_are_in_the_log(server: Server) -> None:
    infer(server)
    assert [line for line in logged(server) if line.get("model") and "phase" in line]


def test_the_operator_of_this_machine_is_shown_too(server: Server) -> None:
    with server.http() as http:
        families = parsed(http.get("/metrics").text)
    values = {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}
    assert values["modelmora_operator_reconciles_total", "finished"] > 0
    assert values["modelmora_operator_reconcile_duration_seconds_count",] > 0


@pytest.mark.req("AC-PROD-4", "API-REST-15", "REQ-OBS-001a", "REQ-OBS-001b", "REQ-OBS-001f", "C-21")
@pytest.mark.parametrize("path", ["/metrics", "/api/v1/metrics"])
def test_the_numbers_of_a_real_model_are_shown(server: Server, path: str) -> None:
    infer(server)

    def shown() -> dict[str, float] | None:
        with server.http() as http:
            families = parsed(http.get(path).text)
        values = {s.name: s.value for f in families for s in f.samples if s.labels.get("model") == "one"}
        return values if values.get("modelmora_memory_bytes") else None

    values = wait_for(shown, within_s=60, what="the memory of the model")
    assert values["modelmora_memory_bytes"] > 1_000_000
    assert values["modelmora_request_duration_seconds_count"] >= 1
    assert values["modelmora_model_loads_total"] >= 1
    assert values["modelmora_cold_start_seconds"] >= 0
