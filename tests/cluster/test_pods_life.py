"""A worker in a pod of ours, on real nodes: it starts, answers, says why it cannot, drains, and may do little else."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelmora.kube import names
from modelmora.v1 import worker_pb2, worker_pb2_grpc
from tests.support.cluster import Kubectl
from tests.support.entries import outputs_of
from tests.support.images import Images
from tests.support.worker_pods import PATIENCE_S, WorkerPods, scripted, status
from tests.support.workers import batch, entry, results

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


@pytest.fixture(scope="module")
def definitions(kubectl: Kubectl) -> None:
    kubectl.must("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    kubectl.must("wait", "--for=condition=Established", "--timeout=30s", "crd/modeldeployments.modelmora.io")


@pytest.fixture
def workers(kubectl: Kubectl, namespace: str, images: Images, definitions: None) -> WorkerPods:
    """In a namespace that refuses pods which may do more than they need."""
    kubectl.must("label", "namespace", namespace, RESTRICTED)
    return WorkerPods(kubectl, namespace, images.worker_bare)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"sharedMemory": {"sizeLimit": "64Mi", "sessionQuota": "1Mi"}, "resources": {"requests": {"memory": "1Gi"}}},
        {
            "sidecars": [{"name": "app", "image": "app:1"}],
            "scaling": {"minReplicas": 1},
            "eviction": {"policy": "Never"},
        },
        {"gpu": {"mode": "Exclusive", "count": 2}, "resources": {"limits": {"cpu": "500m"}}},
        {"cache": {"claimName": "weights"}, "model": {"source": {"uri": "pvc://models/minilm"}}},
        {"cache": {"sizeLimit": "1Gi"}, "model": {"source": {"uri": "hf://a/b", "secretRef": {"name": "hub"}}}},
        {
            "podTemplate": {
                "metadata": {"labels": {"team": "red"}},
                "spec": {
                    "nodeSelector": {"disk": "ssd"},
                    "tolerations": [{"key": "gpu", "operator": "Exists"}],
                    "imagePullSecrets": [{"name": "registry"}],
                    "containers": [{"name": "worker", "env": [{"name": "A", "value": "b"}]}],
                    "volumes": [{"name": "cache", "ephemeral": None, "emptyDir": {"sizeLimit": "3Gi"}}],
                },
            }
        },
    ],
    ids=["plain", "shared-memory", "sidecars", "gpus", "claims", "secret", "template"],
)
def test_an_api_server_takes_it_where_only_restricted_pods_may_be(workers: WorkerPods, spec: dict[str, Any]) -> None:
    pod = workers.made(scripted(**spec), image_pull_secrets=("ours",), cache_size_limit="2Gi")
    workers.run("create", "--dry-run=server", "-f", "-", objects=pod)


@pytest.mark.req("REQ-DEPLOY-001", "RM-4.1a")
async def test_it_starts_says_so_and_answers(workers: WorkerPods) -> None:
    pod = workers.start(scripted())
    workers.ready(pod)
    async with workers.channel(pod, names.HEALTH_PORT) as channel:
        for service in ("", "modelmora.v1.WorkerService", names.LIVENESS_SERVICE):
            assert await health(channel, service) == health_pb2.HealthCheckResponse.SERVING
    async with workers.channel(pod, names.CALL_PORT) as channel:
        said = await status(channel)
        assert said.phase == worker_pb2.WORKER_PHASE_SERVING
        assert said.phase_seconds.keys() >= {"spawn", "import", "fetch", "load", "test"}
        assert said.artifact.digest.startswith("sha256:")
        assert await asked(channel, "one", "two") == ["one", "two"]


async def test_it_drains_before_its_pod_is_gone(workers: WorkerPods) -> None:
    pod = workers.start(scripted())
    workers.ready(pod)
    async with workers.channel(pod, names.CALL_PORT) as channel:
        stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
        call = stub.Process()
        await call.write(batch(entry(1, "slow", sleep=2)))
        await until_running(workers, pod)
        workers.run("delete", "pod", pod, "--wait=false")
        [answer] = (await results(call, 1)).values()
        assert answer.WhichOneof("kind") == "output", answer
    # Sooner than the kubelet would kill it: the first process of a container hears of the end only if it listens.
    workers.run("wait", "--for=delete", f"pod/{pod}", "--timeout=30s")


def test_why_it_cannot_serve_stands_in_its_pod_and_it_is_started_again(workers: WorkerPods) -> None:
    pod = workers.start(scripted(parameters={"failLoads": 9}))
    end = workers.ended(pod)
    said = json.loads(end["message"])
    assert said["reason"] == "LoadFailed"
    assert "the scripted load fails" in said["message"]
    assert said["remedy"]
    assert workers.container(pod)["restartCount"] >= 1


async def test_a_start_in_its_place_does_not_count_from_the_wish_for_the_first(workers: WorkerPods) -> None:
    pod = workers.start(scripted(parameters={"failLoads": 1}))
    workers.ended(pod)
    workers.ready(pod)
    async with workers.channel(pod, names.CALL_PORT) as channel:
        seconds = (await status(channel)).phase_seconds
    assert "load" in seconds
    assert "spawn" not in seconds


def test_an_image_without_our_program_is_told_by_its_log(workers: WorkerPods) -> None:
    patch = {"spec": {"containers": [{"name": "worker", "command": ["python", "-m", "no_such_program"]}]}}
    pod = workers.start(scripted(podTemplate=patch))
    assert "No module named no_such_program" in workers.ended(pod)["message"]


def test_it_may_write_only_where_it_must(workers: WorkerPods) -> None:
    pod = workers.start(scripted())
    workers.ready(pod)
    probe = (
        "import os\n"
        "writable = []\n"
        "for folder in ('/', '/etc/modelmora', '/usr/local/lib', os.environ['HOME'], '/var/lib/modelmora',"
        " '/var/cache/modelmora'):\n"
        "    try:\n"
        "        open(folder + '/probe', 'w').close()\n"
        "        writable.append(folder)\n"
        "    except OSError:\n"
        "        pass\n"
        "print(os.getuid(), os.path.exists('/var/run/secrets/kubernetes.io'), *writable)"
    )
    said = workers.run("exec", pod, "-c", "worker", "--", "python", "-c", probe).split()
    assert said == ["65532", "False", "/tmp", "/var/lib/modelmora", "/var/cache/modelmora"]


@pytest.fixture
def claim(kubectl: Kubectl, namespace: str, images: Images, definitions: None) -> Iterator[str]:
    """A claim with a model in its folder org/minilm, on a volume made by hand."""
    name = f"modelmora-{uuid4().hex[:10]}"
    size = {"storage": "1Mi"}
    volume = {"accessModes": ["ReadWriteMany"], "storageClassName": name}
    place = {"path": f"/var/tmp/{name}", "type": "DirectoryOrCreate"}
    filler = {
        "name": "filler",
        "image": images.worker_bare,
        "command": ["python", "-c", "import signal, sys; signal.signal(15, lambda *_: sys.exit()); signal.pause()"],
        "volumeMounts": [{"name": "place", "mountPath": "/place"}],
        "securityContext": {"runAsUser": 0},
    }
    objects = [
        {"kind": "PersistentVolume", "spec": {**volume, "capacity": size, "hostPath": place}},
        {
            "kind": "PersistentVolumeClaim",
            "spec": {**volume, "resources": {"requests": size}, "volumeName": name},
        },
        {"kind": "Pod", "spec": {"containers": [filler], "volumes": [{"name": "place", "hostPath": place}]}},
    ]
    made = [{"apiVersion": "v1", "metadata": {"name": name}, **item} for item in objects]
    kubectl.must("create", "-n", namespace, "-f", "-", objects={"apiVersion": "v1", "kind": "List", "items": made})
    kubectl.must("wait", "-n", namespace, "--for=condition=Ready", f"pod/{name}", f"--timeout={PATIENCE_S}s")
    inside = ("exec", "-n", namespace, name, "--", "sh", "-c")
    kubectl.must(*inside, "mkdir -p /place/org/minilm && echo weights > /place/org/minilm/weights.txt")
    yield name
    kubectl.must(*inside, "rm -r /place/org")
    kubectl.must("delete", "-n", namespace, f"pod/{name}", "--wait=true")
    kubectl.must("delete", "persistentvolume", name, "--wait=false")


@pytest.mark.req("RM-1.3b")
async def test_a_model_on_a_claim_is_read_where_it_lies(
    kubectl: Kubectl, namespace: str, images: Images, claim: str
) -> None:
    workers = WorkerPods(kubectl, namespace, images.worker_bare)
    by_claim = workers.start(scripted("by-claim", model={"source": {"uri": f"pvc://{claim}/org/minilm"}}))
    mounted = {
        "containers": [{"name": "worker", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
    }
    source = {"source": {"uri": "file:///data/org/minilm"}}
    by_file = workers.start(scripted("by-file", model=source, podTemplate={"spec": mounted}))
    digests = set()
    for pod in (by_claim, by_file):
        workers.ready(pod)
        async with workers.channel(pod, names.CALL_PORT) as channel:
            digests.add((await status(channel)).artifact.digest)
    assert len(digests) == 1


def test_a_folder_that_is_not_there_is_told_with_what_to_do(
    kubectl: Kubectl, namespace: str, images: Images, claim: str
) -> None:
    workers = WorkerPods(kubectl, namespace, images.worker_bare)
    pods = {
        uri: workers.start(scripted(f"lacks-{number}", model={"source": {"uri": uri}}))
        for number, uri in enumerate([f"pvc://{claim}/org/other", "file:///data/org/minilm"])
    }
    said = {uri: json.loads(workers.ended(pod)["message"]) for uri, pod in pods.items()}
    assert {words["reason"] for words in said.values()} == {"SourceNotFound"}
    by_claim, by_file = said.values()
    assert f"claim {claim}" in by_claim["remedy"]
    assert "spec.podTemplate" in by_file["remedy"]


@pytest.mark.slow
@pytest.mark.req("AC-MVP-6")
async def test_the_example_is_served_by_the_real_image(workers: WorkerPods, images: Images) -> None:
    deployment = yaml.safe_load((ROOT / "examples" / "minilm.yaml").read_text(encoding="utf-8"))
    pod = workers.start(deployment, image=images.worker)
    workers.ready(pod)
    async with workers.channel(pod, names.CALL_PORT) as channel:
        stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
        call = stub.Process()
        await call.write(batch(entry(1, "hello")))
        [answer] = (await results(call, 1)).values()
        call.cancel()
    assert np.shape(outputs_of(answer)["embeddings"]) == (1, 384)


async def health(channel: grpc.aio.Channel, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)
    return int(answer.status)


async def asked(channel: grpc.aio.Channel, *texts: str) -> list[str]:
    """The texts that the scripted engine gives back."""
    stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
    call = stub.Process()
    await call.write(batch(entry(1, list(texts))))
    [answer] = (await results(call, 1)).values()
    call.cancel()
    return [str(text) for text in outputs_of(answer)["text"]]


async def until_running(workers: WorkerPods, pod: str) -> None:
    """Until the engine has begun with a second batch; the first is the test inference."""
    count = "print(open('/tmp/events').read().count('infer'))"
    async with asyncio.timeout(PATIENCE_S):
        while int(workers.run("exec", pod, "-c", "worker", "--", "python", "-c", count)) < 2:  # noqa: ASYNC110 - in the pod
            await asyncio.sleep(0.05)
