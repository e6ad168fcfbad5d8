"""Bad input gets one clear error, and the service goes on serving the others."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from modelmora import Client
from modelmora.errors import DeadlineExceeded, InferenceFailed, ModelUnhealthy, PayloadTooLarge
from tests.support.scripted import events, scripted
from tests.support.servers import Server, serving, wait_for, write_manifest

pytestmark = pytest.mark.slow
GOOD = {"input": {"text": "hello"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refusals") / "models"
    scripted(folder, "good", model_id="org/good")
    scripted(folder, "untested", model={"failTests": True})
    scripted(folder, "flaky", model={"failLoads": 2})
    scripted(folder, "suspended", suspend=True)
    missing = {"task": "txt2embed", "source": {"uri": (folder / "nowhere").as_uri()}}
    write_manifest(folder, "missing", model=missing)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder, folder.parent) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.http() as http:
        yield http


@pytest.fixture(autouse=True)
def the_service_goes_on(client: Client) -> Iterator[None]:
    yield
    assert client.infer("org/good", "still there").output["text"] == ["still there"]


@pytest.mark.req("RM-1.4d", "RM-1.4e", "API-REST-08")
@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b'{"input": {"text": "\xff"}}', 400, None),
        (b"", 400, None),
        (b"[1]", 422, None),
        (b'{"input": {"text": NaN}}', 400, None),
        (b'{"input": {"text": "a"}, "timeoutSeconds": NaN}', 400, None),
        (b'{"input": {"text": []}}', 422, "input.text"),
        (b'{"input": {"text": 7}}', 422, "input.text"),
        (b'{"input": {}}', 422, "input"),
        (b"{}", 422, "input"),
        (b'{"input": {"text": "a"}, "timeoutSeconds": 0}', 422, "timeoutSeconds"),
        (b'{"input": {"text": "a"}, "timeoutSeconds": -1}', 422, "timeoutSeconds"),
        (b'{"input": {"text": "a"}, "timeoutSeconds": "soon"}', 422, "timeoutSeconds"),
        (b'{"input": {"text": "a"}, "priority": "URGENT"}', 422, "priority"),
        (b'{"input": {"text": "a"}, "priorty": "HIGH"}', 422, "priorty"),
        (b'{"input": {"text": "a"}, "parameters": 3}', 422, "parameters"),
    ],
    ids=lambda value: value.decode(errors="replace") if isinstance(value, bytes) else str(value),
)
def test_a_bad_body_is_the_callers_fault_and_says_where(
    http: httpx.Client, body: bytes, status: int, field: str | None
) -> None:
    answer = http.post("/api/v1/infer/org/good", content=body, headers={"content-type": "application/json"})
    problem = problem_of(answer, status)
    if field is not None:
        assert problem["field"] == field


def problem_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem+json of an answer, checked for what all of them have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["code"]
    assert problem["detail"]
    assert problem["remedy"]
    assert problem["requestId"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    return problem


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v1/infer/org/none", 404, "MODEL_NOT_FOUND"),
        ("/api/v1/infer/a/../b", 404, None),
        ("/api/v1/infer/a%2F..%2Fb", 422, "INVALID_REQUEST"),
        ("/api/v1/infer/org/good@not-a-version", 422, "INVALID_REQUEST"),
        ("/api/v1/infer/org/good@9.9.9", 404, "MODEL_NOT_FOUND"),
        ("/api/v1/nothing", 404, None),
    ],
)
def test_a_bad_path_is_refused(http: httpx.Client, path: str, status: int, code: str | None) -> None:
    answer = http.post(path, json=GOOD)
    problem = problem_of(answer, status)
    if code is not None:
        assert problem["code"] == code


def test_a_text_of_100_mb_is_refused(http: httpx.Client) -> None:
    answer = http.post("/api/v1/infer/org/good", content=json.dumps({"input": {"text": "x" * 100_000_000}}))
    assert problem_of(answer, 413)["code"] == "PAYLOAD_TOO_LARGE"


@pytest.mark.req("REQ-INFER-003")
def test_an_engine_that_raises_fails_that_request_only(client: Client, http: httpx.Client) -> None:
    pid = client.infer("org/good", "before").output["pid"][0]
    answer = http.post("/api/v1/infer/org/good", json=GOOD | {"parameters": {"fail": "a bad day"}})
    problem = problem_of(answer, 500)
    assert (problem["code"], problem["modelId"]) == ("INFERENCE_FAILED", "org/good")
    assert "a bad day" in problem["detail"]
    with pytest.raises(InferenceFailed, match="a bad day"):
        client.infer("org/good", "hello", parameters={"fail": "a bad day"})
    assert client.infer("org/good", "after").output["pid"][0] == pid


def test_nan_in_an_answer_is_no_invalid_json(http: httpx.Client) -> None:
    answer = http.post("/api/v1/infer/org/good", json=GOOD | {"parameters": {"nan": True}})
    json.loads(answer.text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


def test_a_request_that_runs_too_long_ends_at_its_timeout(client: Client) -> None:
    client.infer("org/good", "wake")
    with pytest.raises(DeadlineExceeded) as caught:
        client.infer("org/good", "slowly", parameters={"sleep": 3}, timeout_seconds=0.3)
    assert caught.value.context.model_id == "org/good"


def test_a_client_that_hangs_up_stops_nobody(server: Server) -> None:
    host, port = server.rest.removeprefix("http://").split(":")
    body = json.dumps(GOOD | {"parameters": {"sleep": 1}}).encode()
    head = f"POST /api/v1/infer/org/good HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head + body)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head + body[:5])


@pytest.mark.req("REQ-LIFE-009", "REQ-LIFE-010a", "REQ-LIFE-010b", "API-REST-18")
def test_a_model_whose_test_inference_fails_never_serves(http: httpx.Client, folder: Path) -> None:
    problem = problem_of(http.post("/api/v1/infer/untested", json=GOOD), 503)
    assert (problem["code"], problem["reason"]) == ("MODEL_UNHEALTHY", "HealthInferenceFailed")
    assert "the scripted inference fails" in problem["detail"]
    health = {each["modelId"]: each for each in http.get("/health/models").json()["models"]}
    assert health["untested"]["healthy"] is False
    assert "HealthInferenceFailed" in json.dumps(health["untested"])
    asked = [event for event in events(folder, "untested") if event.endswith("hello")]
    assert asked == []


@pytest.mark.req("REQ-LIFE-011")
def test_a_load_that_fails_twice_is_tried_again(http: httpx.Client, client: Client, folder: Path) -> None:
    problem = problem_of(http.post("/api/v1/infer/flaky", json=GOOD), 503)
    assert problem["retryAfterSeconds"] > 0
    wait_for(lambda: client.get_model("flaky").state == "Loaded", within_s=40, what="the third load")
    assert events(folder, "flaky").count("load") == 3
    assert client.infer("flaky", "hello").output["text"] == ["hello"]


def test_a_missing_folder_is_named(http: httpx.Client, folder: Path) -> None:
    problem = problem_of(http.post("/api/v1/infer/missing", json=GOOD), 503)
    assert problem["reason"] == "SourceNotFound"
    assert str(folder / "nowhere") in problem["detail"]


def test_a_suspended_model_says_so(client: Client, http: httpx.Client) -> None:
    assert problem_of(http.post("/api/v1/infer/suspended", json=GOOD), 503)["code"] == "MODEL_SUSPENDED"
    with pytest.raises(ModelUnhealthy):
        client.infer("untested", "hello")


def test_a_second_server_on_the_same_state_is_refused(server: Server, folder: Path) -> None:
    command = [sys.executable, "-m", "modelmora", "serve", str(folder), "--rest-port", "0", "--grpc-port", "0"]
    second = subprocess.run(
        [*command, "--state-dir", str(server.state_dir)], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 2
    assert str(server.pid) in second.stderr
    assert "--state-dir" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize("flag", ["--rest-port", "--grpc-port"])
def test_a_port_in_use_is_named(tmp_path: Path, folder: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {"--rest-port": "0", "--grpc-port": "0"} | {flag: port}
        command = [sys.executable, "-m", "modelmora", "serve", str(folder), "--state-dir", str(tmp_path / "state")]
        for pair in ports.items():
            command += pair
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert port in refused.stderr
    assert flag in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_request_as_large_as_the_server_was_told_to_take_reaches_the_worker(tmp_path: Path) -> None:
    """And does not end the stream on which those of others travel."""
    scripted(tmp_path / "models", "good")
    allowed = {"MODELMORA_MAX_REQUEST_BYTES": str(200 * 2**20)}
    with serving(tmp_path / "models", tmp_path, env=allowed) as server, server.client() as client:
        large = np.ones(100 * 2**20, np.uint8)
        first = client.infer("good", {"text": "first"}).output["pid"]
        assert client.infer("good", {"text": "large", "tensor": large}).output["pid"] == first
        with pytest.raises(PayloadTooLarge):
            client.infer("good", {"tensor": np.ones(210 * 2**20, np.uint8)})
