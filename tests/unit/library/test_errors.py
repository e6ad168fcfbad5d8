"""One tree, one table, both ways, for every leaf."""

import pickle

import grpc
import pytest
from google.rpc.status_pb2 import Status

from modelmora import errors
from modelmora.errors import ModelMoraError, leaves
from modelmora.wire import status

FULL = {
    "model_id": "org/name",
    "field": "input.text",
    "remedy": "give a text",
    "reason": "LoadFailed",
    "endpoint": "localhost:9000",
    "file": "models.yaml",
    "request_id": "r-1",
    "retry_after_s": 1.5,
    "needed_bytes": 80_000_000,
}
every_leaf = pytest.mark.parametrize("leaf", leaves(), ids=lambda leaf: leaf.__name__)


def test_the_table_holds_every_leaf_and_nothing_else() -> None:
    assert set(status.TABLE) == set(leaves())


def test_the_drawing_names_every_class_of_the_tree() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ModelMoraError)]
    assert [kind.__name__ for kind in classes if kind.__name__ not in (errors.__doc__ or "")] == []


@every_leaf
def test_an_error_survives_the_way_over_grpc(leaf: type[ModelMoraError]) -> None:
    sent = leaf("it broke", **FULL)  # type: ignore[arg-type]
    got = status.from_rpc(Status.FromString(status.to_rpc(sent).SerializeToString()))
    assert (type(got), got.message, got.context) == (leaf, sent.message, sent.context)


@pytest.mark.parametrize("letter", ["x", "ä", "語", "\n"])
def test_an_error_of_any_length_fits_into_the_trailers_of_a_call(letter: str) -> None:
    long = errors.InferenceFailed(letter * 100_000, field=letter * 1000, remedy=letter * 1000, request_id="r-1")
    short = status.abbreviated(long)
    percent_encoded, base64_encoded = 3, 4 / 3
    size = percent_encoded * len(short.message.encode()) + base64_encoded * status.to_rpc(short).ByteSize()
    assert size < 8 * 1024
    assert (type(short), short.context.request_id) == (errors.InferenceFailed, "r-1")
    assert long.message.startswith(short.message[:-1])


def test_an_error_that_fits_is_not_cut() -> None:
    sent = errors.InferenceFailed("it broke", **FULL)  # type: ignore[arg-type]
    got = status.abbreviated(sent)
    assert (got.message, got.context) == (sent.message, sent.context)


@every_leaf
@pytest.mark.req("RM-1.4e")
def test_an_error_survives_the_way_over_http(leaf: type[ModelMoraError]) -> None:
    sent = leaf("it broke", **FULL)  # type: ignore[arg-type]
    problem = status.to_problem(sent)
    got = status.from_problem(problem, http_status=int(problem["status"]))
    assert (type(got), got.message, got.context) == (leaf, sent.message, sent.context)


@every_leaf
def test_an_error_survives_pickling(leaf: type[ModelMoraError]) -> None:
    sent = leaf("it broke", **FULL)  # type: ignore[arg-type]
    got = pickle.loads(pickle.dumps(sent))
    assert (type(got), got.message, got.context) == (leaf, sent.message, sent.context)


@every_leaf
def test_what_is_the_callers_fault_is_a_4xx_and_what_is_not_is_a_5xx(leaf: type[ModelMoraError]) -> None:
    http = status.TABLE[leaf].http
    if issubclass(leaf, errors.RequestError) and leaf is not errors.DeadlineExceeded:
        assert 400 <= http < 500
    if issubclass(leaf, errors.ServerError | errors.LoadError):
        assert http >= 500


def test_empty_fields_do_not_travel() -> None:
    assert set(status.to_problem(errors.ModelNotFound("no model x"))) == {"type", "title", "status", "detail", "code"}


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_a_strangers_status_becomes_some_leaf(code: grpc.StatusCode) -> None:
    got = status.from_rpc(Status(code=code.value[0], message="from a proxy"), endpoint="proxy:1")
    assert type(got) in leaves()
    assert (got.message, got.context.endpoint) == ("from a proxy", "proxy:1")


@pytest.mark.parametrize("kind", ["ErrorInfo", "RequestInfo", "RetryInfo"])
def test_details_that_cannot_be_read_are_left_out(kind: str) -> None:
    sent = Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="garbage")
    sent.details.add(type_url=f"type.googleapis.com/google.rpc.{kind}", value=b"\xff\xff")
    got = status.from_rpc(sent)
    assert (type(got), got.message) == (errors.ServerUnavailable, "garbage")


def test_a_strangers_http_answer_becomes_some_leaf() -> None:
    assert type(status.from_problem({}, http_status=502)) is errors.ServerUnavailable
    assert type(status.from_problem({"code": "NEVER_HEARD_OF"}, http_status=418)) is errors.InternalError


def test_located_fills_only_what_is_empty() -> None:
    got = errors.InvalidRequest("no", field="input").located(field="other", model_id="m")
    assert (got.context.field, got.context.model_id) == ("input", "m")


def test_a_traceback_says_what_to_do_too() -> None:
    assert str(errors.QueueFull("100 wait", remedy="try again")) == "100 wait (try again)"
    assert str(errors.QueueFull("100 wait")) == "100 wait"
