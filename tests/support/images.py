"""The images of this tree on the nodes of the cluster, built through one hook command.

    $MODELMORA_LOAD_IMAGE NAME CONTAINERFILE FOLDER

builds the last stage of CONTAINERFILE in FOLDER and puts it on the nodes as NAME. An image is built when a test first
asks for it, once for all processes of a run, and not again while neither the sources nor the cluster have changed.
"""

import fcntl
import hashlib
import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from tests.support.cluster import Kubectl

ROOT = Path(__file__).parents[2]
_TARGET = ROOT / "tools" / "containerfile-target"
_LOADED = ROOT / ".make" / "images"  # a file for each image that is on the nodes, with the cluster's name in it
_INGREDIENTS = (
    "containers/Containerfile",
    "tools/image_requirements.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "library",
    "operator",
    "router",
    "worker",
)
_BUILD_DEADLINE_S = 1200  # with everything that pip has to fetch the first time
_LAST_LINES = 30


@dataclass(frozen=True)
class Images:
    """The names of the images. The first to ask for one waits until it is on the nodes."""

    kubectl: Kubectl
    hook: tuple[str, ...]

    @cached_property
    def operator(self) -> str:
        return self._loaded("operator")

    @cached_property
    def router(self) -> str:
        return self._loaded("router")

    @cached_property
    def worker_bare(self) -> str:
        """Without torch: for engines of one's own."""
        return self._loaded("worker-bare")

    @cached_property
    def worker(self) -> str:
        """With torch, and the model of examples/minilm.yaml."""
        return self._loaded("worker")

    def again(self, target: str) -> str:
        """Puts an image on the nodes once more: a node may have come since."""
        name = self._loaded(target)
        self._load(name, target)
        return name

    def renamed(self, target: str) -> str:
        """The same image under another name."""
        name = f"{self._loaded(target)}-renamed"
        self._load(name, target)
        return name

    def _loaded(self, target: str) -> str:
        tag = f"test-{digest()[:12]}"
        name = f"modelmora/{target}:{tag}"
        _LOADED.mkdir(parents=True, exist_ok=True)
        with (_LOADED / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a build takes all there is; two at once are slower than one by one
            known, cluster = _LOADED / f"{target}-{tag}", self._cluster()
            if not known.exists() or known.read_text() != cluster:
                self._load(name, target)
                known.write_text(cluster)
        return name

    def _cluster(self) -> str:
        """Names this cluster and its nodes: made anew, they have no images."""
        found = [self.kubectl.json("get", "namespace", "kube-system"), *self.kubectl.json("get", "nodes")["items"]]
        return json.dumps(sorted(item["metadata"]["uid"] for item in found))

    def _load(self, name: str, target: str) -> None:
        stages = subprocess.run([_TARGET, target], capture_output=True, text=True, check=True).stdout
        with tempfile.NamedTemporaryFile("w", suffix=".Containerfile") as file:
            file.write(stages)
            file.flush()
            command = [*self.hook, name, file.name, str(ROOT)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_DEADLINE_S, check=False)
        if done.returncode:
            said = "\n".join((done.stdout + done.stderr).splitlines()[-_LAST_LINES:])
            pytest.fail(f"{shlex.join(command)} ended with {done.returncode}:\n{said}", pytrace=False)


@pytest.fixture(scope="session")
def images(kubectl: Kubectl) -> Images:
    """Skips without a hook; fails where the run is to have a cluster."""
    environment = os.environ  # noqa: TID251 - a test run has no settings class
    hook = shlex.split(environment.get("MODELMORA_LOAD_IMAGE", ""))
    if not hook:
        why = "no way to put images on the nodes (MODELMORA_LOAD_IMAGE is not set)"
        if "cluster" in environment.get("MODELMORA_TEST_REQUIRE", "").split():
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    return Images(kubectl, tuple(hook))


def digest() -> str:
    """Of everything that goes into the images."""
    whole = hashlib.sha256()
    for path in _files():
        whole.update(f"{path.relative_to(ROOT)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _files() -> Iterator[Path]:
    for ingredient in _INGREDIENTS:
        path = ROOT / ingredient
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in inside if file.is_file() and "__pycache__" not in file.parts)
