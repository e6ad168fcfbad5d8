"""Containers beside a worker on real nodes: as other users they share memory with it, and nothing outlives a crash."""

import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.support.days import Door, Models
from tests.support.images import Images
from tests.support.neighbours import IDLE, MODEL, Neighbour

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
MB = 1_000_000
PATIENCE_S = 60.0

# Sends an array of SIZE numbers by the client that finds the worker by itself, and says how it went.
SENDER = """
import dataclasses, json, os
import numpy as np
from modelmora import Client, tensors
array = np.ones(SIZE, np.float32)
with Client() as client:
    result = client.infer("summing", array, deadline_seconds=60)
    counts = dataclasses.asdict(dataclasses.replace(tensors.statistics(), fallbacks=None))
    fallbacks = dict(tensors.statistics().fallbacks)
    answer = {name: float(value[0]) for name, value in result.output.items()}
    print(json.dumps({**answer, "uid": os.getuid(), "counts": counts, "fallbacks": fallbacks}), flush=True)
"""


def sender(size: int) -> str:
    return SENDER.replace("SIZE", str(size))


@pytest.fixture
def neighbour(models: Models, images: Images) -> Neighbour:
    return Neighbour(models, images.worker_bare)


@pytest.mark.req("US2", "US2-IT", "US2-AS1", "US3", "FR-004", "FR-005", "ENT-3")
def test_a_container_of_another_user_sends_100_mb_by_a_handle(neighbour: Neighbour) -> None:
    pod = neighbour.serve(sender(25 * MB) + IDLE)
    eventually(lambda: neighbour.models.run("logs", pod, "-c", "app"), "the container said nothing")
    said = json.loads(neighbour.models.run("logs", pod, "-c", "app").splitlines()[-1])
    assert said["sum"] == 25 * MB
    assert said["counts"]["shm"] == 1
    assert said["counts"]["shm_bytes"] == 100 * MB
    assert said["counts"]["bytes"] == 0
    assert said["fallbacks"] == {}
    assert said["uid"] != int(neighbour.run(pod, "import os; print(os.getuid())", container="worker"))
    assert neighbour.container(pod)["restartCount"] == 0


@pytest.mark.req("US2", "FR-014")
def test_it_cannot_take_the_place_of_the_worker(neighbour: Neighbour) -> None:
    pod = neighbour.serve()
    attempts = """
import errno, os, socket
path = os.environ["MODELMORA_SOCKET"]
def bind():
    socket.socket(socket.AF_UNIX).bind(os.path.dirname(path) + "/mine.sock")
def move():
    os.rename(path, path + ".old")
def link():
    os.symlink("/dev/shm/mine.sock", path + ".new")
for attempt in (bind, move, link, lambda: os.unlink(path), lambda: os.unlink(os.path.realpath(path))):
    try:
        attempt()
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
    assert neighbour.run(pod, attempts).split() == ["EROFS"] * 5
    assert neighbour.told(pod, sender(MB))["sum"] == MB


@pytest.mark.req("EDGE-4", "FR-014", "US3")
def test_where_the_volume_is_full_the_same_call_sends_bytes(neighbour: Neighbour) -> None:
    pod = neighbour.serve(sharedMemory={"sizeLimit": "64Mi", "sessionQuota": "64Mi"})
    full = "open('/dev/shm/full', 'wb').write(bytes(50_000_000))\n"
    told = neighbour.told(pod, full + sender(10 * MB))
    assert told["sum"] == 10 * MB
    assert told["counts"]["shm"] == 0
    assert told["fallbacks"] == {"INSUFFICIENT_MEMORY": 1}
    words = """
from modelmora import tensors
import os
with tensors.connect(os.path.realpath(os.environ["MODELMORA_SOCKET"]) + ".tensors") as session:
    try:
        session.empty(10_000_000)
    except Exception as error:
        print(type(error).__name__, error, error.context.remedy)
"""
    said = neighbour.run(pod, words)
    assert said.startswith("InsufficientMemory")
    assert "/dev/shm" in said
    assert "spec.sharedMemory.sizeLimit" in said
    emptied = "import os; os.unlink('/dev/shm/full')\n"
    assert neighbour.told(pod, emptied + sender(10 * MB))["counts"]["shm"] == 1
    assert [neighbour.container(pod, name)["restartCount"] for name in ("app", "worker")] == [0, 0]


@pytest.mark.req("EDGE-4", "FR-014")
def test_more_than_the_memory_of_its_container_is_refused_before_the_kernel_kills_it(neighbour: Neighbour) -> None:
    pod = neighbour.serve(limits={"memory": "200Mi"})
    words = """
from modelmora import tensors
import os
with tensors.connect(os.path.realpath(os.environ["MODELMORA_SOCKET"]) + ".tensors") as session:
    try:
        session.empty(60_000_000)
    except Exception as error:
        print(type(error).__name__, error)
"""
    assert neighbour.run(pod, words).startswith("InsufficientMemory")
    assert neighbour.container(pod)["restartCount"] == 0
    assert neighbour.told(pod, sender(MB))["counts"]["shm"] == 1


@pytest.mark.req("EDGE-4")
def test_a_container_over_its_memory_is_told_and_its_worker_goes_on(neighbour: Neighbour, front: Door) -> None:
    """What it writes into the volume is charged to it, not to the worker."""
    greedy = """
import os, time
time.sleep(2)
file = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
while True:
    os.write(file, bytes(1_000_000))
"""
    neighbour.apply(greedy, limits={"memory": "64Mi"})
    # As it was then: between two ends of the container the pod is ready again for a moment.
    failed = '--for=jsonpath={.status.conditions[?(@.type=="Ready")].reason}=SidecarFailed'
    seen = json.loads(neighbour.models.run("wait", failed, f"mmd/{MODEL}", "--timeout=55s", "-o", "json"))
    [told] = [each["message"] for each in seen["status"]["conditions"] if each["type"] == "Ready"]
    assert "the container app" in told
    assert "used more memory than its limit" in told
    (pod,) = neighbour.models.live_pods(MODEL)
    assert neighbour.container(pod, "worker")["restartCount"] == 0
    assert front.infer(neighbour.models.namespace, MODEL).status_code == 200


@pytest.mark.req("US2-AS2", "FR-009", "EDGE-3")
def test_of_a_client_that_is_killed_nothing_is_left(neighbour: Neighbour) -> None:
    parent = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', CHILD]))"
    child = """
import os, time
import numpy as np
from modelmora import Client
from modelmora.errors import ModelMoraError
array, client = np.ones(25_000_000, np.float32), Client()
while not os.path.exists("/dev/shm/once"):  # the next one only waits
    try:
        client.infer("summing", array)
    except ModelMoraError:
        time.sleep(0.2)
        continue
    open("/dev/shm/once", "w").close()
    print(os.getpid(), flush=True)
time.sleep(3600)
"""
    pod = neighbour.serve(f"CHILD = {child!r}\n{parent}")
    eventually(lambda: neighbour.models.run("logs", pod, "-c", "app"), "nothing was sent")
    assert neighbour.used_bytes(pod) >= 100 * MB
    assert neighbour.mapped(pod) >= 1
    pid = neighbour.models.run("logs", pod, "-c", "app").split()[0]
    neighbour.models.run("exec", pod, "-c", "app", "--", "python", "-c", f"import os; os.kill({pid}, 9)")
    eventually(lambda: neighbour.container(pod)["restartCount"] == 1, "its container was not started again")
    eventually(lambda: neighbour.used_bytes(pod) == 0, "memory of the one that was killed is left")
    assert neighbour.mapped(pod) == 0
    assert neighbour.container(pod, "worker")["restartCount"] == 0


@pytest.mark.req("US2-AS3", "FR-009", "EDGE-3")
def test_a_client_hears_of_the_end_of_its_worker_and_finds_the_next(neighbour: Neighbour) -> None:
    pod = neighbour.serve()
    program = """
import json, os, time
import numpy as np
from modelmora import Client, tensors
from modelmora.errors import ModelMoraError
array = np.ones(10_000_000, np.float32)
said = {}
with Client() as client:
    assert client.infer("summing", array).output["sum"] == 10_000_000
    session = client._sharing._session
    try:
        client.infer("summing", array, parameters={"exit": 9}, deadline_seconds=20)
    except ModelMoraError as error:
        said["heard"] = error.code
    ends_at = time.monotonic() + 50
    while time.monotonic() < ends_at:
        try:
            said["sum"] = float(client.infer("summing", array, deadline_seconds=20).output["sum"][0])
        except ModelMoraError:
            time.sleep(0.2)
        else:
            break
    try:
        session.empty(1)
    except ModelMoraError as error:
        said["session"] = error.code
    before = tensors.statistics().shm
    while tensors.statistics().shm == before and time.monotonic() < ends_at:
        client.infer("summing", array)
        time.sleep(0.2)
    said["shared_again"] = tensors.statistics().shm > before
print(json.dumps(said))
"""
    said = neighbour.told(pod, program)
    assert said["heard"] in {"WORKER_UNAVAILABLE", "SERVER_UNAVAILABLE"}
    assert said == {"heard": said["heard"], "sum": 10 * MB, "session": "PEER_GONE", "shared_again": True}
    assert neighbour.container(pod, "worker")["restartCount"] == 1
    assert neighbour.container(pod)["restartCount"] == 0
    eventually(lambda: neighbour.used_bytes(pod) == 0, "memory is left")


@pytest.mark.req("EDGE-3", "FR-009")
def test_one_that_cuts_its_memory_short_ends_its_worker_which_comes_back(neighbour: Neighbour) -> None:
    """The one thing that is promised to nobody, since a file in a volume of the pod cannot be sealed."""
    pod = neighbour.serve()
    program = """
import os, time
import numpy as np
from modelmora import Client
from modelmora.errors import ModelMoraError
from modelmora.tensors.looks import behind
with Client() as client:
    array = np.ones(10_000_000, np.float32)
    client.infer("summing", array)
    tensor = client._sharing._session.put(array)
    os.ftruncate(behind(tensor.numpy()).place.arena.fd, 0)
    try:
        client.infer("summing", tensor.numpy(), deadline_seconds=20)
    except ModelMoraError as error:
        print(error.code)
    ends_at = time.monotonic() + 50
    while time.monotonic() < ends_at:
        try:
            print(client.infer("summing", array, deadline_seconds=20).output["sum"][0])
            break
        except ModelMoraError:
            time.sleep(0.2)
"""
    error, again = neighbour.run(pod, program).split()
    assert error in {"WORKER_UNAVAILABLE", "SERVER_UNAVAILABLE"}
    assert float(again) == 10 * MB
    worker = neighbour.container(pod, "worker")
    assert worker["restartCount"] == 1
    assert worker["lastState"]["terminated"]["exitCode"] == 128 + signal.SIGBUS


@pytest.mark.req("US2", "US3")
def test_what_comes_by_the_router_and_what_comes_by_the_socket_go_into_one_batch(
    neighbour: Neighbour, front: Door
) -> None:
    pod, namespace = neighbour.serve(), neighbour.models.namespace
    with ThreadPoolExecutor(3) as pool:
        slow = pool.submit(front.infer, namespace, MODEL, sleep=8)
        direct = pool.submit(neighbour.told, pod, sender(MB))
        routed = pool.submit(front.infer, namespace, MODEL)
        outputs = [future.result().json()["output"] for future in (slow, routed)]
        told = direct.result()
    assert [int(output["pid"][0]) for output in outputs] == [int(told["pid"])] * 2
    assert int(outputs[1]["batch"][0]) == int(told["batch"]) == 2


@pytest.mark.req("US2")
def test_calls_at_the_socket_count_as_demand(neighbour: Neighbour) -> None:
    callers = """
import threading, time
from modelmora import Client
from modelmora.errors import ModelMoraError
def call():
    while True:
        try:
            client.infer("summing", "hello", parameters={"sleep": 1})
        except ModelMoraError:
            time.sleep(0.2)
client = Client()
for _ in range(3):
    threading.Thread(target=call, daemon=True).start()
"""
    scaling = {"minReplicas": 1, "maxReplicas": 2, "targetConcurrency": 2}
    neighbour.apply(callers + IDLE, scaling=scaling, batching={"maxSize": 1})
    eventually(lambda: len(neighbour.models.live_pods(MODEL)) == 2, "nobody counted the calls")


@pytest.mark.req("US2", "FR-004")
def test_the_example_works_as_it_stands(models: Models, images: Images) -> None:
    deployment = yaml.safe_load((ROOT / "examples" / "sidecar.yaml").read_text(encoding="utf-8"))
    [sidecar] = deployment["spec"]["sidecars"]
    sidecar["image"] = images.worker_bare
    models.run("apply", "-f", "-", objects=deployment)
    models.wait("brightness", "Serving")
    (pod,) = models.live_pods("brightness")
    said = " frames as handles, 0 as bytes"
    eventually(lambda: models.run("logs", pod, "-c", sidecar["name"]).count(said) >= 3, "it sent no frames")


def eventually(look: Callable[[], object], otherwise: str) -> None:
    """Returns once that is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.5)
