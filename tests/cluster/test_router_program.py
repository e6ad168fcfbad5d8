"""The router's program on a real API server: when it is ready, how it ends, and what it says when it cannot start."""

# ruff: noqa: F811 - the fixtures are imported by their names

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelmora.control import Key
from modelmora.control.leases import demands_of
from modelmora.kube import names
from tests.support.api_proxy import ApiProxy, api_proxy
from tests.support.cluster import Kubectl, kubectl, namespace  # noqa: F401 - fixtures
from tests.support.manifests import manifest
from tests.support.router_program import RouterProgram, router_program
from tests.support.servers import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

KUBECONFIG = Path(os.environ.get("KUBECONFIG", ""))  # noqa: TID251 - a test run has no settings class
START_S = 60.0


@pytest.fixture
def proxy(tmp_path: Path) -> Any:
    with api_proxy(KUBECONFIG, tmp_path) as forwarder:
        yield forwarder


def settings(namespace: str, kubeconfig: Path = KUBECONFIG, **more: str) -> dict[str, str]:
    return {
        "ROUTER_NAMESPACE": namespace,
        "ROUTER_NAMESPACES": f'["{namespace}"]',
        "ROUTER_POD_NAME": "router-a",
        "ROUTER_KUBECONFIG": str(kubeconfig),
        "DEFAULT_NAMESPACE": namespace,
        **more,
    }


def until_ready(program: RouterProgram) -> None:
    try:
        wait_for(program.ready, within_s=START_S, what="the router to be ready")
    except AssertionError:
        raise AssertionError(f"the router is not ready:\n{program.log()}") from None


def lease(kubectl: Kubectl, namespace: str, name: str = "router-a") -> dict[str, Any] | None:
    answer = kubectl("get", "lease", name, "-n", namespace, "-o", "json")
    found: dict[str, Any] | None = yaml.safe_load(answer.out) if answer.ok else None
    return found


def put_worker(kubectl: Kubectl, namespace: str, name: str) -> None:
    """A worker's pod with an address, which no node runs."""
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {names.COMPONENT: names.WORKER, names.DEPLOYMENT: name}},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "worker", "image": "none:test"}]},
    }
    kubectl.must("create", "-n", namespace, "-f", "-", objects=body)
    status = '{"status":{"podIP":"127.0.0.9","podIPs":[{"ip":"127.0.0.9"}],"phase":"Running"}}'
    kubectl.must("patch", "pod", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", status)


@pytest.mark.req("REQ-REL-002")
def test_a_router_is_ready_once_it_has_said_that_running_models_are_wanted(
    kubectl: Kubectl,
    namespace: str,
    proxy: ApiProxy,
    tmp_path: Path,
) -> None:
    kubectl.must("create", "-n", namespace, "-f", "-", objects=manifest("runs"))
    kubectl.must("create", "-n", namespace, "-f", "-", objects=manifest("sleeps"))
    put_worker(kubectl, namespace, "runs")
    proxy.deny("PATCH", "/leases", status=503, message="not now")
    with router_program(tmp_path, **settings(namespace, proxy.kubeconfig)) as program:
        heard = dict.fromkeys(("router", "deployments", "routes", "workers"), "ready")
        components = heard | {"demand": "not yet published"}
        wait_for(lambda: program.components() == components, within_s=START_S, what="all but the demand")
        assert not program.ready()
        assert lease(kubectl, namespace) is None
        proxy.allow()
        until_ready(program)
        assert demands_of(lease(kubectl, namespace) or {}).keys() == {Key(namespace, "runs")}


def test_a_router_that_ends_in_order_takes_its_lease_along(kubectl: Kubectl, namespace: str, tmp_path: Path) -> None:
    with router_program(tmp_path, **settings(namespace)) as program:
        until_ready(program)
        assert lease(kubectl, namespace)
        assert program.stop() == 0, program.log()
        assert lease(kubectl, namespace) is None


def test_several_processes_have_a_lease_each_and_take_them_along(
    kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    kubectl.must("create", "-n", namespace, "-f", "-", objects=manifest("runs"))
    put_worker(kubectl, namespace, "runs")
    with router_program(tmp_path, **settings(namespace, PROCESSES="2")) as program:
        until_ready(program)
        for number in (1, 2):
            held = lease(kubectl, namespace, f"router-a-{number}") or {}
            assert demands_of(held).keys() == {Key(namespace, "runs")}
        assert lease(kubectl, namespace) is None
        assert program.stop() == 0, program.log()
        assert not any(lease(kubectl, namespace, f"router-a-{number}") for number in (1, 2))


def test_a_router_waits_for_the_definition_and_says_so(
    namespace: str,
    proxy: ApiProxy,
    tmp_path: Path,
) -> None:
    proxy.deny("GET", "/modeldeployments", status=404, message="404 page not found")
    with router_program(tmp_path, **settings(namespace, proxy.kubeconfig)) as program:
        wait_for(lambda: "kubectl apply --server-side -f crds/" in program.log(), within_s=START_S, what="a word of it")
        assert program.components()["deployments"] == "not yet heard of"
        assert not program.ready()
        proxy.allow()
        until_ready(program)


def test_without_the_definition_of_routes_models_are_served_all_the_same(
    namespace: str, proxy: ApiProxy, tmp_path: Path
) -> None:
    proxy.deny("GET", "/modelroutes", status=404, message="404 page not found")
    with router_program(tmp_path, **settings(namespace, proxy.kubeconfig)) as program:
        until_ready(program)
        assert "install the definition of ModelRoute" in program.log()


def test_without_a_kubeconfig_a_router_says_what_to_do(tmp_path: Path) -> None:
    with router_program(tmp_path, **settings("default", tmp_path / "none.yaml")) as program:
        assert program.process.wait(START_S) == 2
        assert "there is no way to a Kubernetes API" in program.log()
        assert "Traceback" not in program.log()


def test_an_api_that_cannot_be_reached_ends_a_router_after_a_while(proxy: ApiProxy, tmp_path: Path) -> None:
    proxy.refuse()
    given = settings("default", proxy.kubeconfig, ROUTER_API_TIMEOUT_S="2")
    with router_program(tmp_path, **given) as program:
        assert program.process.wait(START_S) == 2
        assert "modelmora_router: the Kubernetes API cannot be reached" in program.log()
        assert "Traceback" not in program.log()


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    with router_program(tmp_path, **settings("default", ROUTER_NAMESPACES="a,b")) as program:
        assert program.process.wait(START_S) == 2
        assert "NAMESPACES" in program.log()
        assert "Traceback" not in program.log()


def test_the_rights_that_are_lacking_are_named(kubectl: Kubectl, namespace: str, tmp_path: Path) -> None:
    kubectl.must("create", "serviceaccount", "nobody", "-n", namespace)
    kubectl.must("create", "role", "some", "-n", namespace, "--verb=list,watch", "--resource=pods")
    bound = ("--role=some", f"--serviceaccount={namespace}:nobody")
    kubectl.must("create", "rolebinding", "some", "-n", namespace, *bound)
    token = kubectl.must("create", "token", "nobody", "-n", namespace).strip()
    with router_program(tmp_path, **settings(namespace, _kubeconfig_of(token, tmp_path))) as program:
        assert program.process.wait(START_S) == 2
    said = program.log()
    assert f"watch modeldeployments.modelmora.io in namespace {namespace}" in said
    assert f"watch modelroutes.modelmora.io in namespace {namespace}" in said
    assert f"patch leases.coordination.k8s.io in namespace {namespace}" in said
    assert "pods" not in said
    assert "Traceback" not in said


@pytest.fixture
def goes(kubectl: Kubectl, namespace: str) -> Iterator[str]:
    """A second namespace, for the test to delete."""
    name = f"{namespace}-goes"
    kubectl.must("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


def test_a_namespace_that_is_deleted_takes_nothing_of_the_others_along(
    kubectl: Kubectl, namespace: str, goes: str, tmp_path: Path
) -> None:
    kubectl.must("create", "serviceaccount", "router", "-n", namespace)
    _allow(kubectl, namespace, namespace, "leases.coordination.k8s.io", "create,patch,delete")
    for place in (namespace, goes):
        _allow(kubectl, namespace, place, "pods,modeldeployments.modelmora.io,modelroutes.modelmora.io", "list,watch")
        kubectl.must("create", "-n", place, "-f", "-", objects=manifest("one"))
    token = kubectl.must("create", "token", "router", "-n", namespace).strip()
    both = f'["{namespace}", "{goes}"]'
    given = settings(namespace, _kubeconfig_of(token, tmp_path), ROUTER_NAMESPACES=both, ROUTER_LOG_FORMAT="json")

    with router_program(tmp_path, **given) as program:
        until_ready(program)
        assert program.models() == {namespace, goes}
        kubectl.must("delete", "namespace", goes, "--wait=true")
        wait_for(lambda: program.models() == {namespace}, within_s=60, what="its model to be gone")
        assert program.ready()
    with router_program(tmp_path, **given) as program:
        until_ready(program)
        assert program.models() == {namespace}
    said = [line for line in program.log().splitlines() if "cannot follow" in line]
    assert len(said) == 3, program.log()  # deployments, routes and workers, each once
    assert all(goes in line and "if the namespace was deleted" in line for line in said)


def _allow(kubectl: Kubectl, home: str, place: str, resources: str, verbs: str) -> None:
    """The ServiceAccount router of its home may do this there."""
    name = resources.partition(".")[0].replace(",", "-")
    kubectl.must("create", "role", name, "-n", place, f"--verb={verbs}", f"--resource={resources}")
    bound = (f"--role={name}", f"--serviceaccount={home}:router")
    kubectl.must("create", "rolebinding", name, "-n", place, *bound)


def _kubeconfig_of(token: str, folder: Path) -> Path:
    """The test's cluster, with the rights of a token."""
    config = yaml.safe_load(KUBECONFIG.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    file = folder / "token.kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return file
