"""ModelMora on the cluster, installed once for a test run from the chart and from images of this tree."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.cluster import Kubectl
from tests.support.days import Door, Models, door
from tests.support.helm import Helm
from tests.support.images import Images

CHART = Path(__file__).parents[2] / "charts" / "modelmora"
CRDS = Path(__file__).parents[2] / "crds"
RELEASE = "modelmora"
SYSTEM = "modelmora-days"  # the namespace of the installation
WORKERS = ("master", *(f"gw{number}" for number in range(8)))  # of pytest-xdist
DOOMED = "days-doomed"  # a test deletes it
NAMESPACES = (SYSTEM, *(f"days-{worker}" for worker in WORKERS), DOOMED)


@dataclass(frozen=True, slots=True)
class Installation:
    """The release that the bad days happen to."""

    kubectl: Kubectl
    helm: Helm
    images: Images

    def values(self) -> dict[str, object]:
        """What the tests set: images of this tree, the torch-free worker, a namespace for each process of the run."""
        return {
            "crds": {"install": False},  # the tests change and delete them by kubectl
            "operator": {"image": self.images.operator},
            "router": {"image": self.images.router, "replicas": 2},
            "worker": {"image": self.images.worker_bare},
            "watchNamespaces": [*NAMESPACES[1:]],
        }

    def install(self, **more: object) -> None:
        """Installs, or brings an installation up to date; returns when everything is ready."""
        for namespace in NAMESPACES:
            if "Terminating" in self.kubectl("get", "namespace", namespace).out:  # of a run before this one
                self.kubectl.must("wait", "--for=delete", f"namespace/{namespace}", "--timeout=55s")
            self.kubectl("create", "namespace", namespace)
        self.kubectl.must("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
        values = json.dumps(self.values() | more)
        arguments = ("--install", "--namespace", SYSTEM, "--wait", "--timeout", "180s", "-f", "-")
        self.helm.must("upgrade", RELEASE, str(CHART), *arguments, said=values)

    def remove(self) -> None:
        """Uninstalls, and deletes the namespaces with everything in them."""
        self.helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait", "--timeout", "120s")
        self.kubectl("delete", "namespace", *NAMESPACES, "--ignore-not-found", "--wait=false")

    @contextmanager
    def door(self, target: str = "svc/modelmora-router") -> Iterator[Door]:
        """The router's REST interface."""
        with door(self.kubectl, SYSTEM, target) as opened:
            yield opened

    def router_pods(self) -> list[str]:
        """The names of the running routers."""
        found = self.kubectl.json("get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=router")
        return sorted(p["metadata"]["name"] for p in found["items"] if "deletionTimestamp" not in p["metadata"])


@pytest.fixture(scope="session")
def installation(
    kubectl: Kubectl,
    helm: Helm,
    images: Images,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    """Installed by the process of the run that comes first; a run side by side leaves it for the run after it."""
    installed = Installation(kubectl, helm, images)
    root = tmp_path_factory.getbasetemp()
    shared = root if _worker() == "master" else root.parent
    with (shared / "installation.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = shared / "installation.done"
        if not done.exists():
            installed.install()
            done.touch()
    yield installed
    if _worker() == "master":
        installed.remove()


@pytest.fixture
def models(installation: Installation) -> Iterator[Models]:
    """The models of this process's own namespace; what a test leaves there is deleted."""
    here = Models(installation.kubectl, f"days-{_worker()}")
    yield here
    here.run("delete", "mmr,mmd", "--all", "--wait=true", "--timeout=60s")


@pytest.fixture(scope="session")
def front(installation: Installation) -> Iterator[Door]:
    """A router of the installation."""
    with installation.door() as opened:
        yield opened


def _worker() -> str:
    return os.environ.get("PYTEST_XDIST_WORKER", "master")  # noqa: TID251 - a test run has no settings class
