"""Everything that a caller or a model can do wrong: one shape of answer, and the router goes on."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import structlog.testing
from google.protobuf.struct_pb2 import Struct

from modelmora import errors
from modelmora.control import Key
from modelmora.errors import ModelMoraError
from modelmora.v1 import management_pb2, registry_pb2, types_pb2, worker_pb2
from modelmora.v1.types_pb2 import InferenceResponse
from modelmora.wire.status import to_rpc
from tests.support.fake_worker import FakeWorker, echo, fake_worker
from tests.support.routing import Router, deployment, eventually, failed, post_raw, refused, request, running_router

GOOD = {"input": {"text": "a"}}


@pytest.fixture
async def router(worker: FakeWorker) -> AsyncIterator[Router]:
    """At its end it still serves, whatever the test did to it."""
    models = [deployment(), deployment("broken", status=failed()), deployment("resting", suspend=True)]
    async with running_router(*models, max_request_bytes=1_000_000, max_text_chars=100_000) as router:
        router.work(worker)
        yield router
        worker.release()
        worker.respond = echo
        assert (await router.inference.Infer(request("goes on"))).output["text"].text.items == ["goes on"]


def problem_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The body of a refusal, checked for what all have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["requestId"] == answer.headers["x-request-id"]
    assert all(problem[name] for name in ("type", "title", "detail", "code", "remedy"))
    assert "Traceback" not in answer.text
    return problem


# ------------------------------------------------------------------------------------------------ REST


@pytest.mark.req("RM-1.4d", "RM-1.4e")
@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b'{"input": {"text": "\xff"}}', 400, None),
        (b"", 400, None),
        (b"[1]", 422, None),
        (b'{"input": {"text": NaN}}', 400, None),
        (b'{"input": {"text": "a"}, "timeoutSeconds": 1e999}', 400, None),
        (b'{"input": {"text": []}}', 422, "input.text"),
        (b'{"input": {"text": 7}}', 422, "input.text"),
        (b'{"input": {"te xt": "a"}}', 422, "input"),
        (b'{"input": {}}', 422, "input"),
        (b"{}", 422, "input"),
        (b'{"input": {"text": "a"}, "timeoutSeconds": 0}', 422, "timeoutSeconds"),
        (b'{"input": {"text": "a"}, "timeoutSeconds": -1}', 422, "timeoutSeconds"),
        (b'{"input": {"text": "a"}, "timeoutSeconds": true}', 422, "timeoutSeconds"),
        (b'{"input": {"text": "a"}, "priority": "URGENT"}', 422, "priority"),
        (b'{"input": {"text": "a"}, "priority": 1.5}', 422, "priority"),
        (b'{"input": {"text": "a"}, "priorty": "HIGH"}', 422, "priorty"),
        (b'{"input": {"text": "a"}, "parameters": 3}', 422, "parameters"),
        (b'{"input": {"text": "a"}, "parameters": {"a": ' + b"[" * 60 + b"]" * 60 + b"}}", 422, "parameters"),
        (b'{"input": {"text": "' + b"a" * 100_001 + b'"}}', 413, "input.text"),
        (b'{"input": {"text": "' + b"a" * 1_000_001 + b'"}}', 413, None),
    ],
    ids=lambda value: value[:50].decode(errors="replace") if isinstance(value, bytes) else str(value),
)
async def test_a_bad_body_is_the_callers_fault(router: Router, body: bytes, status: int, field: str | None) -> None:
    problem = problem_of(await router.http.post("/api/v1/infer/one", content=body), status)
    assert problem.get("field") == field


async def test_a_body_of_unknown_length_is_counted_while_it_is_read(router: Router) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100_000

    problem = problem_of(await router.http.post("/api/v1/infer/one", content=endless()), 413)
    assert problem["code"] == "PAYLOAD_TOO_LARGE"


@pytest.mark.req("RM-1.4e")
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/api/v1/infer/none", 404, "MODEL_NOT_FOUND"),
        ("POST", "/api/v1/infer/one@9.9.9", 404, "MODEL_NOT_FOUND"),
        ("POST", "/api/v1/infer/one@new", 422, "INVALID_REQUEST"),
        ("POST", "/api/v1/infer/a%2F..%2Fb", 422, "INVALID_REQUEST"),
        ("POST", "/api/v1/infer/a//b", 422, "INVALID_REQUEST"),
        ("POST", "/api/v1/infer/" + "x" * 300, 422, "INVALID_REQUEST"),
        ("POST", "/api/v1/models/one/load/load", 422, "INVALID_REQUEST"),
        ("POST", "/api/v1/models/none/load", 404, "MODEL_NOT_FOUND"),
        ("POST", "/api/v1/models/none/unload", 404, "MODEL_NOT_FOUND"),
        ("GET", "/api/v1/models/none", 404, "MODEL_NOT_FOUND"),
        ("GET", "/api/v1/models?pageSize=x", 422, "INVALID_REQUEST"),
        ("GET", "/api/v1/models?pageSize=-1", 422, "INVALID_REQUEST"),
        ("GET", "/api/v1/models?pageToken=x", 422, "INVALID_REQUEST"),
        ("GET", "/api/v1/nothing", 404, "ROUTE_NOT_FOUND"),
        ("GET", "/api/v1/infer/one", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/api/v1/infer/broken", 503, "MODEL_UNHEALTHY"),
        ("POST", "/api/v1/infer/resting", 503, "MODEL_SUSPENDED"),
        ("POST", "/api/v1/infer/one/async", 501, "FEATURE_UNAVAILABLE"),
        ("GET", "/api/v1/jobs/7", 501, "FEATURE_UNAVAILABLE"),
        ("POST", "/api/v1/models", 501, "FEATURE_UNAVAILABLE"),
        ("PUT", "/api/v1/models/org/one", 501, "FEATURE_UNAVAILABLE"),
        ("DELETE", "/api/v1/models/org/one", 501, "FEATURE_UNAVAILABLE"),
        ("POST", "/api/v1/models/org/one/versions/1.0.0", 501, "FEATURE_UNAVAILABLE"),
    ],
)
async def test_a_path_that_cannot_be_served_says_why(
    router: Router, method: str, path: str, status: int, code: str
) -> None:
    body = GOOD if method == "POST" else None
    assert problem_of(await router.http.request(method, path, json=body), status)["code"] == code


async def test_a_refusal_that_passes_says_when_to_come_again(router: Router) -> None:
    answer = await router.http.post("/api/v1/infer/broken", json=GOOD)
    problem = problem_of(answer, 503)
    assert answer.headers["retry-after"] == "5"
    assert problem["retryAfterSeconds"] == 5
    assert (problem["reason"], problem["modelId"]) == ("LoadFailed", "broken")
    assert "model.safetensors is cut short" in problem["detail"]


async def test_the_callers_request_id_comes_back_on_errors_too(router: Router) -> None:
    answer = await router.http.post("/api/v1/infer/none", json=GOOD, headers={"x-request-id": "mine"})
    assert problem_of(answer, 404)["requestId"] == "mine"


async def test_a_request_id_that_breaks_lines_is_refused(router: Router) -> None:
    answer = await router.http.get("/api/v1/models", headers={"x-request-id": "a b"})
    assert problem_of(answer, 422)["field"] == "requestId"


async def test_another_namespace_does_not_see_the_model(router: Router) -> None:
    headers = {"modelmora-namespace": "other"}
    problem = problem_of(await router.http.post("/api/v1/infer/one", json=GOOD, headers=headers), 404)
    assert "'other'" in problem["detail"]
    listed = await router.http.get("/api/v1/models", headers=headers)
    assert listed.json()["models"] == []


async def test_an_unforeseen_error_is_one_answer_without_a_traceback(router: Router, worker: FakeWorker) -> None:
    def garbage(entry: Any) -> Any:
        result = echo(entry)
        broken = InferenceResponse.FromString(result.output)
        broken.output["embeddings"].tensor.shape[:] = [7, 7]
        result.output = broken.SerializeToString()
        return result

    worker.respond = garbage
    assert problem_of(await router.http.post("/api/v1/infer/one", json=GOOD), 500)["code"] == "INFERENCE_FAILED"


@pytest.mark.req("REQ-INFER-003")
async def test_an_error_of_the_worker_keeps_its_code_on_both_protocols(router: Router, worker: FakeWorker) -> None:
    error = errors.InvalidRequest("parameter 'odd' is unknown", field="parameters.odd", remedy="leave it out")

    def refuse(entry: Any) -> Any:
        result = echo(entry)
        result.error.CopyFrom(to_rpc(error))
        return result

    worker.respond = refuse
    assert problem_of(await router.http.post("/api/v1/infer/one", json=GOOD), 422)["field"] == "parameters.odd"
    got = await refused(router.inference.Infer(request(request_id="mine")))
    assert type(got) is errors.InvalidRequest
    assert (got.context.field, got.context.model_id, got.context.request_id) == ("parameters.odd", "one", "mine")


@pytest.mark.req("REQ-QUEUE-004")
async def test_a_rest_request_ends_at_its_timeout(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    answer = await router.http.post("/api/v1/infer/one", json=GOOD | {"timeoutSeconds": 0.1})
    assert problem_of(answer, 504)["code"] == "DEADLINE_EXCEEDED"
    await eventually(lambda: worker.cancelled == [worker.received[0].entry_id])


@pytest.mark.req("REQ-QUEUE-003", "RM-2.1c")
async def test_each_model_and_so_each_task_has_a_timeout_of_its_own(worker: FakeWorker) -> None:
    quick = deployment("quick", model={"task": "txt2embed"}, queue={"timeoutSeconds": 1})
    patient = deployment("patient", model={"task": "txt2img"}, queue={"timeoutSeconds": 30})
    async with fake_worker("w2") as second, running_router(quick, patient) as router:
        workers = {"quick": worker, "patient": second}
        listed = {one.worker_id: one.listed(Key("default", name)) for name, one in workers.items()}
        router.control.workers.set(listed)
        for one in workers.values():
            one.hold()
        begun = asyncio.get_running_loop().time()
        waits = asyncio.ensure_future(router.inference.Infer(request(model_id="patient")))
        error = await refused(router.inference.Infer(request(model_id="quick")))
        assert type(error) is errors.DeadlineExceeded
        assert asyncio.get_running_loop().time() - begun >= 0.9  # not before its time
        assert not waits.done()
        second.release()
        assert (await waits).request_id


async def test_a_rest_client_that_hangs_up_withdraws_its_request(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    _, writer = await post_raw(router, json.dumps(GOOD).encode())
    await eventually(lambda: worker.received)
    writer.close()
    await writer.wait_closed()
    await eventually(lambda: worker.cancelled == [worker.received[0].entry_id])


async def test_a_client_that_hangs_up_in_the_middle_of_its_body_leaves_nothing(router: Router) -> None:
    reader, writer = await asyncio.open_connection(router.bound.host, router.bound.rest_port)
    writer.write(b"POST /infer/one HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n{")
    assert b"100 Continue" in await reader.readline()  # the router reads the body now
    with structlog.testing.capture_logs() as logs:
        writer.close()
        await writer.wait_closed()
        await router.waiting()
    assert [line for line in logs if line["log_level"] == "error"] == []


async def test_a_body_that_never_ends_is_not_waited_for_for_ever() -> None:
    async with running_router(deployment(), body_timeout_s=0.2) as router:
        reader, writer = await asyncio.open_connection(router.bound.host, router.bound.rest_port)
        writer.write(b"POST /infer/one HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        async with asyncio.timeout(10):
            assert b"400" in await reader.readline()
        writer.close()


# ------------------------------------------------------------------------------------------------ gRPC


def with_parameters(depth: int) -> types_pb2.InferenceRequest:
    inner: Any = "end"
    for _ in range(depth):
        inner = [inner]
    parameters = Struct()
    parameters.update({"a": inner})
    return request(parameters=parameters)


@pytest.mark.parametrize(
    ("made", "kind", "field"),
    [
        (types_pb2.InferenceRequest(), errors.InvalidRequest, "modelId"),
        (request(model_id="none"), errors.ModelNotFound, "modelId"),
        (request(model_id="a/../b"), errors.InvalidRequest, "modelId"),
        (types_pb2.InferenceRequest(model_id="one"), errors.InvalidRequest, "input"),
        (types_pb2.InferenceRequest(model_id="one", input={"a": types_pb2.Value()}), errors.InvalidRequest, "input.a"),
        (request(timeout_seconds=0), errors.InvalidRequest, "timeoutSeconds"),
        (request(timeout_seconds=float("nan")), errors.InvalidRequest, "timeoutSeconds"),
        (request(priority=9), errors.InvalidRequest, "priority"),
        (request(request_id="a b"), errors.InvalidRequest, "requestId"),
        (with_parameters(30), errors.InvalidRequest, "parameters"),
        (request("a" * 100_001), errors.PayloadTooLarge, "input.text"),
        (request("a" * 1_000_001), errors.PayloadTooLarge, ""),
        (request(model_id="broken"), errors.ModelUnhealthy, ""),
        (request(model_id="resting"), errors.ModelSuspended, "spec.suspend"),
    ],
    ids=[
        "empty",
        "unknown",
        "dots",
        "no input",
        "no kind",
        "timeout 0",
        "timeout NaN",
        "priority",
        "request id",
        "deep",
        "long text",
        "large",
        "broken",
        "suspended",
    ],
)
async def test_a_bad_message_is_refused_with_rich_details(
    router: Router, made: types_pb2.InferenceRequest, kind: type[ModelMoraError], field: str
) -> None:
    error = await refused(router.inference.Infer(made))
    assert type(error) is kind
    assert error.context.field == field


async def test_bytes_that_are_no_message_end_only_their_call(router: Router) -> None:
    call: Any = router.channel.unary_unary("/modelmora.v1.InferenceService/Infer", request_serializer=None)
    for data in (struct.pack("<I", 0xFFFFFFFF) * 10, b"\x0a\x02\xff\xfe"):
        error = await refused(call(data))
        assert type(error) is errors.MalformedRequest
        assert error.context.request_id


def length_delimited(number: int, data: bytes) -> bytes:
    """A field of a message as it is on the wire."""
    high, low = divmod(len(data), 128)
    return bytes([number << 3 | 2, low | 128, high]) + data


async def test_fields_of_another_release_cannot_end_the_stream_of_the_others(
    router: Router, worker: FakeWorker
) -> None:
    worker.hold()
    other = asyncio.ensure_future(router.inference.Infer(request("other")))
    await router.waiting(running=1)
    nested = b"\xa3\x06" * 97 + b"\xa4\x06" * 97  # groups with the number 100, each in the one before
    value = types_pb2.Value(text=types_pb2.Text(items=["a"])).SerializeToString() + nested
    entry = length_delimited(1, b"text") + length_delimited(2, value)
    call: Any = router.channel.unary_unary("/modelmora.v1.InferenceService/Infer", request_serializer=None)
    newer = asyncio.ensure_future(call(length_delimited(1, b"one") + length_delimited(2, entry)))
    await eventually(lambda: worker.texts == ["other", "a"])
    worker.release()
    await asyncio.gather(other, newer)
    assert worker.streams == 1


async def test_a_tensor_that_is_too_large_for_the_worker_is_refused(router: Router) -> None:
    answer = await router.http.post("/infer/one", json={"input": {"x": [1] * 130_000}})
    assert problem_of(answer, 413)["field"] == "input"


async def test_an_engines_long_words_are_cut_and_stay_its_error(router: Router, worker: FakeWorker) -> None:
    error = errors.InferenceFailed("no " * 20_000)
    worker.respond = lambda entry: worker_pb2.EntryResult(entry_id=entry.entry_id, error=to_rpc(error))
    assert type(await refused(router.inference.Infer(request()))) is errors.InferenceFailed


@pytest.mark.parametrize("given", ["", "x" * 100_000], ids=["none", "far too long"])
async def test_every_error_over_grpc_names_its_request(router: Router, given: str) -> None:
    calls = [
        router.inference.Infer(request(priority=9, request_id=given)),
        router.inference.Infer(request(model_id="..", request_id=given)),
        router.registry.GetModel(registry_pb2.GetModelRequest(model_id="none")),
        router.management.LoadModel(management_pb2.LoadModelRequest(model_id="none")),
    ]
    named = [(await refused(call)).context.request_id for call in calls]
    assert all(len(request_id) == 32 for request_id in named)


@pytest.mark.req("REQ-QUEUE-004")
async def test_the_clients_grpc_deadline_withdraws_the_request(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    error = await refused(router.inference.Infer(request(), timeout=0.2))
    assert isinstance(error, errors.DeadlineExceeded)
    await eventually(lambda: worker.cancelled == [worker.received[0].entry_id])


async def test_a_grpc_client_that_cancels_withdraws_the_request(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    call = router.inference.Infer(request())
    await eventually(lambda: worker.received)
    call.cancel()
    await eventually(lambda: worker.cancelled == [worker.received[0].entry_id])


async def test_what_is_not_built_answers_in_words(router: Router) -> None:
    calls = [
        router.inference.InferAsync(request()),
        router.registry.RegisterModel(registry_pb2.RegisterModelRequest()),
        router.registry.UpdateModel(registry_pb2.UpdateModelRequest()),
        router.registry.DeleteModel(registry_pb2.DeleteModelRequest()),
        router.registry.SetActiveVersion(registry_pb2.SetActiveVersionRequest()),
    ]
    for call in calls:
        error = await refused(call)
        assert type(error) is errors.FeatureUnavailable
        assert error.context.remedy


async def test_metadata_names_namespace_and_request(router: Router) -> None:
    metadata = (("modelmora-namespace", "other"), ("x-request-id", "mine"))
    error = await refused(router.inference.Infer(request(), metadata=metadata))
    assert "'other'" in error.message
    assert error.context.request_id == "mine"
    error = await refused(
        router.management.LoadModel(management_pb2.LoadModelRequest(model_id="one"), metadata=metadata)
    )
    assert type(error) is errors.ModelNotFound
