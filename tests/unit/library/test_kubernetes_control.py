"""What the control makes of objects: deployments read once a change, workers of pods."""

import subprocess
import sys
from typing import Any

import pytest
from structlog.testing import capture_logs

from modelmora.control import Key, Worker
from modelmora.control.kubernetes import deployment_reader, workers_of
from modelmora.kube import names
from modelmora.kube.api import DEPLOYMENTS, LEASES, PODS, Resource
from modelmora.kube.following import State, merged
from modelmora.kube.rights import Right
from tests.support.manifests import manifest

ONE, TWO = Key("models", "one"), Key("models", "two")


def stored(name: str, *, version: str = "1", uid: str = "", **spec: Any) -> dict[str, Any]:
    body = manifest(name, **spec)
    body["metadata"] |= {"namespace": "models", "resourceVersion": version, "uid": uid or f"uid of {name}"}
    return body


def state(*objects: dict[str, Any]) -> State:
    return {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in objects}


def test_only_what_changed_is_read_again() -> None:
    reader = deployment_reader()
    before = reader.read(state(stored("one"), stored("two")))
    after = reader.read(state(stored("one", version="2", suspend=True), stored("two")))
    assert after[ONE].spec.suspend
    assert after[TWO] is before[TWO]
    assert reader.read(state(stored("two"))).keys() == {TWO}


def test_a_deployment_that_cannot_be_read_any_more_stays_as_it_was_and_that_is_said_once() -> None:
    reader = deployment_reader()
    before = reader.read(state(stored("one")))
    broken = stored("one", version="2") | {"spec": "nothing"}
    with capture_logs() as logs:
        assert reader.read(state(broken))[ONE] is before[ONE]
        assert reader.read(state(broken))[ONE] is before[ONE]
    assert [entry["name"] for entry in logs] == ["models/one"]


def test_another_deployment_under_the_name_that_cannot_be_read_is_not_there() -> None:
    reader = deployment_reader()
    reader.read(state(stored("one")))
    assert reader.read(state(stored("one", version="2", uid="another") | {"spec": "nothing"})) == {}


def test_one_that_cannot_be_read_hides_no_other() -> None:
    assert deployment_reader().read(state(stored("one") | {"spec": None}, stored("two"))).keys() == {TWO}


def pod(*, address: str | None = "10.0.0.1", phase: str = "Running", **metadata: Any) -> State:
    labels = {names.COMPONENT: names.WORKER, names.DEPLOYMENT: "one"}
    return {
        ("models", "w"): {
            "metadata": {"name": "w", "namespace": "models", "labels": labels} | metadata,
            "status": {"phase": phase} | ({"podIP": address} if address else {}),
        }
    }


def test_a_worker_is_known_by_its_pod() -> None:
    expected = Worker("models/w", ONE, "10.0.0.1:9100", "10.0.0.1:9101")
    assert workers_of(pod()) == {"models/w": expected}


@pytest.mark.parametrize(
    ("references", "uid"),
    [
        ([{"kind": "ModelDeployment", "controller": True, "uid": "u1"}], "u1"),
        ([{"kind": "Pod", "controller": True, "uid": "u0"}], ""),
        ([{"kind": "ModelDeployment", "uid": "u0"}], ""),
        (None, ""),
    ],
    ids=["of a deployment", "of something else", "not its controller", "of nothing"],
)
def test_a_worker_says_which_object_it_was_made_for(references: Any, uid: str) -> None:
    assert workers_of(pod(ownerReferences=references))["models/w"].deployment_uid == uid


def test_an_address_of_ipv6_is_written_as_grpc_has_it() -> None:
    assert workers_of(pod(address="fd00::1"))["models/w"].address == "[fd00::1]:9100"


def test_a_pod_that_is_deleted_is_terminating() -> None:
    assert workers_of(pod(deletionTimestamp="2026-01-02T00:00:00Z"))["models/w"].terminating


@pytest.mark.parametrize(
    "pods",
    [pod(address=None), pod(phase="Failed"), pod(phase="Succeeded"), pod(labels={}), pod(labels=None)],
    ids=["no address", "failed", "succeeded", "of nothing", "without labels"],
)
def test_not_every_pod_is_a_worker(pods: State) -> None:
    assert workers_of(pods) == {}


def test_states_of_namespaces_are_one() -> None:
    assert merged([{("a", "x"): {}}, {("b", "x"): {}}]).keys() == {("a", "x"), ("b", "x")}


@pytest.mark.parametrize(
    ("resource", "namespace", "name", "path"),
    [
        (PODS, None, "", "/api/v1/pods"),
        (PODS, "models", "w", "/api/v1/namespaces/models/pods/w"),
        (LEASES, "models", "", "/apis/coordination.k8s.io/v1/namespaces/models/leases"),
        (DEPLOYMENTS, "models", "a", "/apis/modelmora.io/v1alpha1/namespaces/models/modeldeployments/a"),
    ],
    ids=str,
)
def test_where_an_object_lives(resource: Resource, namespace: str | None, name: str, path: str) -> None:
    assert resource.path(namespace, name) == path


def test_a_right_is_named_as_a_role_names_it() -> None:
    assert str(Right("list", DEPLOYMENTS)) == "list modeldeployments.modelmora.io in all namespaces"
    assert (
        str(Right("patch", DEPLOYMENTS, "a", "status")) == "patch modeldeployments.modelmora.io/status in namespace a"
    )


def test_the_light_client_does_without_the_package_kubernetes() -> None:
    program = "import sys, modelmora, modelmora.control, modelmora.cli.app; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
