"""Install, upgrade, uninstall, install again: what changes, what stays, and what must be gone."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from modelmora.kube import names
from tests.support.cluster import Kubectl
from tests.support.helm import CHART, Helm
from tests.support.images import Images
from tests.support.manifests import manifest

pytestmark = [pytest.mark.cluster, pytest.mark.helm, pytest.mark.slow]

DEFINITION = """# A definition of the test's own, since those of ModelMora belong to everybody on the cluster.
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: things.GROUP
spec:
  group: GROUP
  names: {kind: Thing, listKind: ThingList, plural: things, singular: thing}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          description: first
          type: object
"""


@pytest.fixture
def group(kubectl: Kubectl) -> Iterator[str]:
    name = f"t{uuid4().hex[:8]}.example.com"
    yield name
    kubectl("delete", "crd", f"things.{name}", "--ignore-not-found", "--wait=false")


@pytest.fixture
def chart(tmp_path: Path, group: str) -> Path:
    """The chart with that definition instead of ours, and without the programs."""
    copy = shutil.copytree(CHART, tmp_path / "chart")
    for path in (copy / "files/crds").iterdir():
        path.unlink()
    for name in ("operator", "router", "rbac", "networkpolicy", "uninstall"):
        (copy / f"templates/{name}.yaml").unlink()
    (copy / "files/crds/things.yaml").write_text(DEFINITION.replace("GROUP", group))
    return copy


@pytest.mark.req("REQ-DEPLOY-004")
def test_an_upgrade_upgrades_the_definitions_and_an_uninstall_keeps_them(
    kubectl: Kubectl, helm: Helm, namespace: str, chart: Path, group: str
) -> None:
    here = ("--namespace", namespace)
    written = chart / "files/crds/things.yaml"
    thing = {"apiVersion": f"{group}/v1", "kind": "Thing", "metadata": {"name": "kept", "namespace": namespace}}

    helm.must("install", "one", str(chart), *here)
    kubectl.must("wait", "--for=condition=Established", "--timeout=30s", f"crd/things.{group}")
    kubectl.must("create", "-f", "-", objects=thing)

    written.write_text(written.read_text().replace("description: first", "description: second"))
    helm.must("upgrade", "one", str(chart), *here)
    assert _description(kubectl, group) == "second"

    helm.must("uninstall", "one", *here)
    kubectl.must("get", f"things.{group}", "kept", *here)

    written.write_text(written.read_text().replace("description: second", "description: third"))
    helm.must("install", "one", str(chart), *here)
    assert _description(kubectl, group) == "third"
    kubectl.must("get", f"things.{group}", "kept", *here)

    refused = helm("install", "two", str(chart), *here)
    assert "invalid ownership metadata" in refused.err
    helm.must("install", "two", str(chart), *here, "--take-ownership")
    helm.must("install", "three", str(chart), *here, "--set", "crds.install=false")
    for release in ("one", "two", "three"):
        helm.must("uninstall", release, *here)
    kubectl.must("get", f"things.{group}", "kept", *here)


def _description(kubectl: Kubectl, group: str) -> str:
    found: str = kubectl.json("get", f"crd/things.{group}")["spec"]["versions"][0]["schema"]["openAPIV3Schema"][
        "description"
    ]
    return found


@pytest.fixture
def team(kubectl: Kubectl) -> Iterator[str]:
    """A namespace with models."""
    name = f"team-{uuid4().hex[:8]}"
    kubectl.must("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.timeout(600)
@pytest.mark.req("REQ-DEPLOY-004")
def test_an_uninstall_stops_the_workers_and_keeps_the_models_for_the_next_install(
    kubectl: Kubectl, helm: Helm, images: Images, namespace: str, team: str
) -> None:
    values = {
        "watchNamespaces": [team],
        "crds": {"install": False},
        "operator": {"image": images.operator},
        "router": {"image": images.router, "replicas": 2},
        "worker": {"image": images.worker_bare},
    }
    install = ("install", "modelmora", str(CHART), "-n", namespace, "--wait", "--timeout=180s", "-f", "-")
    helm.must(*install, said=json.dumps(values))
    kubectl.must("apply", "-n", team, "-f", "-", objects=manifest(scaling={"minReplicas": 1}))
    _wait_for_a_worker(kubectl, team)

    helm.must("uninstall", "modelmora", "-n", namespace, "--timeout=180s")
    assert _workers(kubectl, team) == []
    kubectl.must("get", "mmd", "minilm", "-n", team)
    kubectl.must("wait", "--for=delete", "pods", "--all", "-n", namespace, "--timeout=50s")  # routers drain
    left = kubectl.json("get", "all,leases,serviceaccounts,roles,rolebindings,networkpolicies", "-n", namespace)[
        "items"
    ]
    assert [found["metadata"]["name"] for found in left if "modelmora" in found["metadata"]["name"]] == []

    helm.must(*install, said=json.dumps(values))
    _wait_for_a_worker(kubectl, team)
    helm.must("uninstall", "modelmora", "-n", namespace, "--timeout=180s")
    assert _workers(kubectl, team) == []


def _wait_for_a_worker(kubectl: Kubectl, team: str) -> None:
    chosen = ("pods", "-n", team, "-l", f"{names.COMPONENT}={names.WORKER}")
    kubectl.must("wait", "--for=create", "--timeout=50s", *chosen)


def _workers(kubectl: Kubectl, team: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = kubectl.json("get", "pods", "-n", team, "-l", f"{names.COMPONENT}={names.WORKER}")[
        "items"
    ]
    return found
