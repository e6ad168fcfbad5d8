"""The life of models under a real `modelmora serve`: lazily loaded, one process each, ended to unload."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

from modelmora import Client
from modelmora.errors import ModelBusy, ModelNotFound, ModelUnhealthy, WorkerUnavailable
from tests.support.scripted import events, scripted
from tests.support.servers import Server, serving, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("life") / "models"
    scripted(folder, "lazy")
    scripted(folder, "warmed")
    scripted(folder, "one", model_id="org/one")
    scripted(folder, "two", model_id="org/two")
    scripted(folder, "idle", scaling={"scaleToZeroAfterSeconds": 1, "scaleDownDelaySeconds": 0})
    scripted(folder, "kept", scaling={"minReplicas": 1})
    scripted(folder, "shared")
    scripted(folder, "mortal")
    scripted(folder, "fresh", runtime={"env": [{"name": "SOME_VARIABLE", "value": "some value"}]})
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder, folder.parent, warm=True) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as client:
        yield client


def pid_of(client: Client, model_id: str) -> int:
    return int(client.infer(model_id, "hello").output["pid"][0])


@pytest.mark.req("REQ-LIFE-001a", "AC-MVP-4", "DEC-2")
def test_a_model_is_loaded_by_its_first_request_and_not_before(server: Server, client: Client, folder: Path) -> None:
    assert events(folder, "lazy") == []
    pid = pid_of(client, "lazy")
    assert pid != server.pid
    assert psutil.pid_exists(pid)
    assert events(folder, "lazy").count("load") == 1


@pytest.mark.req("REQ-LIFE-005a", "DEC-1")
def test_every_model_has_a_process_of_its_own(server: Server, client: Client) -> None:
    pids = {pid_of(client, "org/one"), pid_of(client, "org/two"), pid_of(client, "lazy")}
    assert len(pids) == 3
    assert pids <= {process.pid for process in server.descendants()}


@pytest.mark.req("REQ-LIFE-005b", "DEC-5", "API-REST-13", "RM-1.3e")
def test_unloading_ends_the_process(server: Server, client: Client) -> None:
    process = psutil.Process(pid_of(client, "org/one"))
    with server.http() as http:
        answer = http.post("/api/v1/models/org/one/unload")
    assert answer.status_code == 200, answer.text
    wait_for(lambda: not process.is_running(), within_s=60, what="the worker to end, and to be waited for")
    assert client.get_model("org/one").replicas == 0
    assert pid_of(client, "org/one") != process.pid


@pytest.mark.req("REQ-LIFE-002", "API-REST-12")
@pytest.mark.parametrize("action", ["load", "warmup"])
def test_loading_lets_the_next_request_find_a_loaded_model(
    server: Server, client: Client, folder: Path, action: str
) -> None:
    client.unload("warmed")
    before = events(folder, "warmed").count("load")
    with server.http() as http:
        answer = http.post(f"/api/v1/models/warmed/{action}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "Loaded"
    assert events(folder, "warmed").count("load") == before + 1
    client.infer("warmed", "hello")
    assert events(folder, "warmed").count("load") == before + 1


def test_an_idle_model_goes_to_zero_and_wakes_again(client: Client) -> None:
    process = psutil.Process(pid_of(client, "idle"))
    wait_for(lambda: not process.is_running(), within_s=60, what="the idle worker to end")
    wait_for(lambda: client.get_model("idle").state == "Standby", within_s=60, what="the state to be Standby")
    ready = client.get_model("idle").condition("Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("True", "ScaledToZero")
    assert pid_of(client, "idle") != process.pid


def test_a_model_with_min_replicas_is_awake_from_the_start_and_stays(client: Client, folder: Path) -> None:
    wait_for(lambda: client.get_model("kept").state == "Loaded", within_s=30, what="the model to be loaded")
    with pytest.raises(ModelBusy) as caught:
        client.unload("kept")
    assert "minReplicas" in caught.value.message + caught.value.context.remedy


def ask_often(target: str, times: int) -> set[int]:
    with Client(target, deadline_seconds=60) as client:
        answers = [client.infer("shared", f"{os.getpid()} {n}") for n in range(times)]
    for n, answer in enumerate(answers):
        assert answer.output["text"] == [f"{os.getpid()} {n}"]
    return {int(answer.output["pid"][0]) for answer in answers}


@pytest.mark.req("US2", "US2-IT", "US2-AS1", "US2-AS2")
def test_many_client_processes_share_one_loaded_model(server: Server, folder: Path) -> None:
    with ProcessPoolExecutor(8, mp_context=get_context("spawn")) as pool:
        pids = set().union(*pool.map(ask_often, [server.grpc] * 8, [50] * 8))
    assert len(pids) == 1
    assert events(folder, "shared").count("load") == 1


@pytest.mark.req("US2-AS3", "EDGE-3")
def test_a_worker_that_dies_fails_what_ran_in_it_by_name_and_comes_back(client: Client) -> None:
    before = pid_of(client, "mortal")
    with pytest.raises(WorkerUnavailable) as caught:
        client.infer("mortal", "last words", parameters={"die": True})
    assert caught.value.context.model_id == "mortal"
    assert caught.value.context.endpoint
    assert pid_of(client, "mortal") != before


def test_a_model_with_an_environment_gets_a_fresh_process(client: Client) -> None:
    environment = psutil.Process(pid_of(client, "fresh")).environ()
    assert environment["SOME_VARIABLE"] == "some value"


def test_an_unknown_model_is_named(client: Client) -> None:
    with pytest.raises(ModelNotFound) as caught:
        client.infer("org/won", "hello")
    assert caught.value.context.model_id == "org/won"
    assert "org/one" in caught.value.message + caught.value.context.remedy


@pytest.mark.req("IMP-1", "CLI-6")
def test_sigterm_finishes_what_runs_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    scripted(folder, "slow")
    with serving(folder, tmp_path) as server, server.client() as client:
        client.infer("slow", "wake")
        family = server.descendants()
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            answer = pool.submit(infer_slowly, server.grpc)
            wait_for(lambda: "infer slowly" in events(folder, "slow"), within_s=30, what="the request to run")
            assert server.stop(signal.SIGTERM) == 0
            assert answer.result() == ["slowly"]
        assert not [process for process in family if alive(process)]
        assert server.sockets() == []


def infer_slowly(target: str) -> list[str]:
    with Client(target, deadline_seconds=60) as client:
        return list(client.infer("slow", "slowly", parameters={"sleep": 1}).output["text"])


@pytest.mark.req("RM-1.3e", "IMP-1")
def test_a_killed_server_leaves_no_process_and_the_next_one_no_socket(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    scripted(folder, "a")
    scripted(folder, "b", runtime={"env": [{"name": "FRESH", "value": "1"}]})
    with serving(folder, tmp_path, warm=True) as server:
        with server.client() as client:
            client.infer("a", "hello")
            client.infer("b", "hello")
        family = server.descendants()
        assert len(family) >= 3  # the warm parent and two workers
        server.process.kill()
        wait_for(lambda: not any(alive(each) for each in family), within_s=60, what="all of its processes to end")
    with serving(folder, tmp_path) as server:
        assert server.sockets() == []


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def answers(client: Client, model_id: str) -> bool:
    try:
        return bool(client.infer(model_id, "hello").output)
    except WorkerUnavailable:  # asked before anybody could know that the worker is gone
        return False


@pytest.mark.req("RM-1.3e")
def test_a_killed_worker_leaves_no_socket(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    scripted(folder, "a")
    with serving(folder, tmp_path) as server, server.client() as client:
        first = psutil.Process(pid_of(client, "a"))
        first.kill()
        wait_for(lambda: not alive(first), within_s=60, what="the worker to end")
        wait_for(lambda: answers(client, "a"), within_s=30, what="the next worker")
        wait_for(lambda: len(server.sockets()) <= 1, within_s=60, what="its socket to go")


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    scripted(folder, "slow")
    with serving(folder, tmp_path) as server, server.client() as client:
        client.infer("slow", "wake")
        family = server.descendants()
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            lost = pool.submit(infer_for_a_minute, server.grpc)
            wait_for(lambda: "infer forever" in events(folder, "slow"), within_s=30, what="the request to run")
            server.process.send_signal(signal.SIGINT)
            wait_for(lambda: "drain" in server.log().lower(), within_s=60, what="the drain to begin")
            time.sleep(0.1)  # two signals at once would be one
            assert server.stop(signal.SIGINT) == 130
            assert lost.result()
        wait_for(lambda: not any(alive(each) for each in family), within_s=60, what="all of its processes to end")


def infer_for_a_minute(target: str) -> str:
    with Client(target, deadline_seconds=60) as client:
        try:
            client.infer("slow", "forever", parameters={"sleep": 50})
        except Exception as error:  # noqa: BLE001 - which one depends on the moment
            return repr(error)
    return ""


def test_a_load_that_is_asked_for_does_not_wait_for_the_back_off(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    scripted(folder, "mended", model={"failLoads": 1})
    an_hour = {"MODELMORA_LOAD_BACKOFF_FIRST_S": "3600", "MODELMORA_LOAD_BACKOFF_CAP_S": "3600"}
    with serving(folder, tmp_path, env=an_hour) as server, server.client() as client:
        with pytest.raises(ModelUnhealthy) as caught:
            client.infer("mended", "hello")
        wait = caught.value.context.retry_after_s
        assert wait is not None
        assert client.load("mended").state == "Loaded"
        assert client.infer("mended", "hello").output["text"] == ["hello"]
