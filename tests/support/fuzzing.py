"""Requests that are wrong in every way, and what must hold of whatever the router answers.

Two doors, each with requests that are well formed, wrong in their fields, and wrong in their bytes: REST by
schemathesis from the router's own OpenAPI description, gRPC by hypothesis from the messages. `Fuzz.run` is blocking and
made for a thread; the router may run in the event loop of the same process.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from modelmora.spec import ModelDeployment
from modelmora.v1 import types_pb2, worker_pb2
from modelmora.wire.status import from_rpc, from_rpc_error
from tests.support.entries import output_of, request_of
from tests.support.routing import deployment, failed

HANGS_S = 20.0
ROUND = 500  # examples after which hypothesis begins anew: it remembers all of a run

# A worker that is lost was broken by one of these requests; what is internal is a bug of ours.
_NEVER = {"INTERNAL_ERROR", "INFERENCE_FAILED", "WORKER_UNAVAILABLE", "SERVER_UNAVAILABLE"}
_REST_5XX = {501, 503, 504}
_GRPC_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
}


def steady(entry: worker_pb2.BatchEntry) -> worker_pb2.EntryResult:
    """How a worker answers that minds no input: with the number of the inputs."""
    output = output_of(text=[str(len(request_of(entry).input))])
    return worker_pb2.EntryResult(entry_id=entry.entry_id, output=output, inference_ms=0.1)


def models() -> list[ModelDeployment]:
    """What the requests are for: `one`, which has a worker, one that cannot be loaded, and one that is suspended."""
    broken = deployment("two", model={"id": "org/two"}, status=failed())
    return [deployment(), broken, deployment("resting", suspend=True)]


@dataclass(frozen=True, slots=True)
class Fuzz:
    """One door: what goes through it, and how to ask."""

    name: str
    strategy: st.SearchStrategy[Any]
    ask: Callable[[Any], None]

    def run(self, cases: int, *, first_seed: int = 0, done: Callable[[], None] = lambda: None) -> None:
        """So many cases; an AssertionError tells the smallest that was answered wrong."""
        for number in itertools.count(first_seed):
            if cases <= 0:
                return
            self._round(min(cases, ROUND), number, done)
            cases -= ROUND

    def _round(self, cases: int, number: int, done: Callable[[], None]) -> None:
        @seed(number)
        @settings(
            max_examples=cases,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        )
        @given(self.strategy)
        def ask(case: Any) -> None:
            self.ask(case)
            done()

        ask()


# ------------------------------------------------------------------------------------------------ bytes


@st.composite
def mutated(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    """Good bytes with a few of them changed, left out, put in, doubled, or cut off."""
    data = bytearray(draw(good))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 8)))
        match draw(st.integers(0, 4)):
            case 0:
                data[at:end] = draw(st.binary(max_size=8))
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = data[at:end] * draw(st.integers(1, 50))
            case 3:
                del data[at:]
            case _ if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


# ------------------------------------------------------------------------------------------------ gRPC

_texts = st.text(max_size=20)
_ids = st.one_of(st.sampled_from(["one", "org/two", "org/two@1.0.0", "none", "resting", "one@9.9.9"]), _texts)
_numbers = st.floats()
_tensors = st.builds(
    lambda datatype, shape, data: types_pb2.Tensor(datatype=datatype, shape=shape, data=data),
    st.one_of(st.integers(0, 13), st.integers(-(2**31), 2**31 - 1)),
    st.lists(st.one_of(st.integers(-1, 8), st.integers(-(2**63), 2**63 - 1)), max_size=40),
    st.binary(max_size=64),
)
_good_values = st.builds(
    lambda items: types_pb2.Value(text=types_pb2.Text(items=items)), st.lists(_texts, min_size=1, max_size=4)
)
_values = st.one_of(
    _good_values,
    st.just(types_pb2.Value(text=types_pb2.Text())),
    st.builds(lambda tensor: types_pb2.Value(tensor=tensor), _tensors),
    st.builds(
        lambda images: types_pb2.Value(images=types_pb2.Images(items=images)),
        st.lists(st.builds(types_pb2.Image, data=st.binary(max_size=30), media_type=_texts), max_size=3),
    ),
    st.just(types_pb2.Value()),
)
_json = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, _texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_texts, inner, max_size=4)),
    max_leaves=20,
)


_FIELDS = ("model_id", "names", "values", "parameters", "priority", "timeout_seconds", "request_id")


@st.composite
def messages(draw: st.DrawFn) -> types_pb2.InferenceRequest:
    """A request in which up to two fields may be wrong: with more, only the first of them would ever be looked at."""
    wrong = draw(st.sets(st.sampled_from(_FIELDS), max_size=2))
    made = types_pb2.InferenceRequest(model_id=draw(_ids) if "model_id" in wrong else "one")
    names = _texts if "names" in wrong else st.sampled_from(["text", "x", "a.b-c"])
    values = _values if "values" in wrong else _good_values
    given_input = draw(st.dictionaries(names, values, min_size=0 if "names" in wrong else 1, max_size=5))
    for name, value in given_input.items():
        made.input[name].CopyFrom(value)
    if "parameters" in wrong:
        made.parameters.update(draw(st.dictionaries(_texts, _json, max_size=4)))
    if "priority" in wrong:
        priority: Any = draw(st.one_of(st.integers(0, 5), st.integers(-(2**31), 2**31 - 1)))
        made.priority = priority
    if "timeout_seconds" in wrong:
        made.timeout_seconds = draw(st.one_of(st.sampled_from([0.0, -1.0, 1e-9, 1e300]), _numbers))
    if "request_id" in wrong:
        made.request_id = draw(_texts)
    return made


_wire = st.builds(lambda made: made.SerializeToString(), messages())
_any_bytes = st.one_of(_wire, mutated(_wire), st.binary(max_size=60))
_INFERENCE, _MODELS = "/modelmora.v1.InferenceService/", "/modelmora.v1.RegistryService/"
_METHODS = (
    _INFERENCE + "InferAsync",
    *(_MODELS + name for name in ("GetModel", "ListModels", "RegisterModel", "UpdateModel", "SetActiveVersion")),
    "/modelmora.v1.ManagementService/LoadModel",
    "/modelmora.v1.ManagementService/UnloadModel",
    "/modelmora.v1.ManagementService/GetStatus",
    "/modelmora.v1.ManagementService/None",
)


def over_grpc(channel: grpc.Channel) -> Fuzz:
    """Every method with whatever bytes."""
    infer = st.just(_INFERENCE + "Infer")
    cases = st.one_of(
        st.tuples(infer, _wire),
        st.tuples(infer, mutated(_wire)),
        st.tuples(st.sampled_from(_METHODS), _any_bytes),
        st.tuples(st.just("stream"), st.lists(_any_bytes, max_size=5)),
    )

    def ask(case: tuple[str, Any]) -> None:
        method, data = case
        with _in_time():
            if method == "stream":
                _stream(channel, data)
            else:
                _unary(channel, method, data)

    return Fuzz("gRPC", cases, ask)


def _unary(channel: Any, method: str, data: bytes) -> None:
    try:
        channel.unary_unary(method)(data, timeout=2 * HANGS_S)
    except grpc.RpcError as error:
        _judge_call(error, named=not method.endswith("/None"))


def _stream(channel: Any, data: list[bytes]) -> None:
    call = channel.stream_stream(_INFERENCE + "InferStream", None, types_pb2.InferenceResponse.FromString)
    answers = 0
    try:
        for answer in call(iter(data), timeout=2 * HANGS_S):
            answers += 1
            if answer.HasField("error"):
                error = from_rpc(answer.error)
                assert error.code not in _NEVER, f"{error.code}: {error.message}"
                assert error.context.request_id
        assert answers == len(data), f"{answers} answers to {len(data)} requests"
    except grpc.RpcError as error:
        _judge_call(error, named=True)


def _judge_call(error: Any, *, named: bool) -> None:
    typed = from_rpc_error(error)
    assert error.code() in _GRPC_CODES, f"{error.code()}: {error.details()}"
    assert typed.code not in _NEVER, f"{typed.code}: {typed.message}"
    if named:
        assert typed.context.request_id, f"{typed.code} names no request"


# ------------------------------------------------------------------------------------------------ REST

_GOOD_BODY = {
    "input": {"text": ["a", "b"], "x": [[1, 2.5], [3, 4]]},
    "parameters": {"a": [1]},
    "priority": "HIGH",
    "timeoutSeconds": 5,
}


@dataclass(frozen=True, slots=True)
class Raw:
    """A request whose body is bytes."""

    path: str
    body: bytes
    headers: dict[str, str]


_paths = st.sampled_from(
    [*["/api/v1/infer/one"] * 6, "/infer/org/two", "/infer/none", "/api/v1/models/one/load", "/api/v1/models"]
)
_bodies = st.one_of(
    st.just(json.dumps(_GOOD_BODY).encode()),
    mutated(st.just(json.dumps(_GOOD_BODY).encode())),
    st.tuples(st.sampled_from(sorted(_GOOD_BODY)), _json).map(
        lambda wrong: json.dumps(_GOOD_BODY | dict([wrong])).encode()
    ),
    st.binary(max_size=60),
)
_header_names = st.sampled_from(
    ["accept", "content-type", "traceparent", "x-request-id"]
    + [f"modelmora-{name}" for name in ("namespace", "client", "idempotent")]
)
_header_texts = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
_raw = st.builds(Raw, _paths, _bodies, st.dictionaries(_header_names, _header_texts, max_size=1))


def over_rest(base_url: str) -> Fuzz:
    """What schemathesis makes of the OpenAPI description, right and wrong, and bodies of whatever bytes."""
    schema = schemathesis.openapi.from_url(f"{base_url}/openapi.json")
    session = requests.Session()
    found: Any = schema.get_all_operations()
    described = (case for result in found for case in _operation(result.ok()))
    cases = st.one_of(*described, _raw, _raw, _raw)

    def ask(case: Any) -> None:
        with _in_time():
            if isinstance(case, Raw):
                answer: Any = session.post(base_url + case.path, case.body, headers=case.headers, timeout=2 * HANGS_S)
            else:
                answer = case.call(base_url=base_url, session=session, timeout=2 * HANGS_S)
        _judge_answer(answer)

    return Fuzz("REST", cases, ask)


def _operation(operation: Any) -> Iterator[st.SearchStrategy[Any]]:
    """Requests for one operation. What takes nothing has nothing wrong, and to a path any text is one more id."""
    places = {parameter["in"] for parameter in operation.definition.raw.get("parameters", ())}
    body = "requestBody" in operation.definition.raw
    if places or body:
        yield _of_known_models(operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    if "query" in places or body:
        yield _of_known_models(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))


def _of_known_models(cases: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Most of them for a model that there is: of others, hardly more than the id would be looked at."""

    def named(case: Any, known: str | None) -> Any:
        if known and "model_id" in (case.path_parameters or {}):
            case.path_parameters["model_id"] = known
        return case

    return st.builds(named, cases, st.sampled_from(["one", "one", "one", "resting", "org/two", None]))


def _judge_answer(answer: Any) -> None:
    code = answer.status_code
    assert code < 500 or code in _REST_5XX, f"{code}: {answer.text[:500]}"
    if code >= 400:
        _judge_problem(answer)


def _judge_problem(answer: Any) -> None:
    media_type = answer.headers["content-type"]
    media_type = media_type[0] if isinstance(media_type, list) else media_type
    if media_type != "application/problem+json":
        # What is no HTTP never reaches the application; /health/ready tells its components.
        assert answer.status_code == 503 or b"Invalid HTTP" in answer.content, (
            f"{answer.status_code}: {answer.text[:300]}"
        )
        return
    problem = answer.json()
    assert problem["code"] not in _NEVER, problem
    assert problem["requestId"], problem


# ------------------------------------------------------------------------------------------------ time


class _in_time:  # noqa: N801 - used as a word: with _in_time()
    """Fails what takes so long that it would be a hang."""

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        assert time.monotonic() - self._began < HANGS_S, "the router hung"


def shares(cases: int, doors: int) -> Iterator[int]:
    """So many cases, divided among the doors."""
    yield from (cases // doors + (door < cases % doors) for door in range(doors))
