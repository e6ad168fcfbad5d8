"""The chart against a real API server: it takes every object, and the rights are those that we mean."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
import yaml

from tests.support.cluster import Kubectl
from tests.support.helm import CHART, ROOT, Helm, Object, is_hook, of_kind

pytestmark = [pytest.mark.cluster, pytest.mark.helm]

RIGHTS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


@pytest.fixture(scope="module")
def places(kubectl: Kubectl) -> Iterator[tuple[str, str]]:
    """A namespace for the release, and one with models; both take only pods that are locked down."""
    names = (f"home-{uuid4().hex[:8]}", f"team-{uuid4().hex[:8]}")
    for name in names:
        kubectl.must("create", "namespace", name)
        kubectl.must("label", "namespace", name, "pod-security.kubernetes.io/warn=restricted")
    yield names
    kubectl("delete", "namespace", *names, "--wait=false")


def taken(kubectl: Kubectl, objects: list[Object]) -> None:
    known = [made for made in objects if made["kind"] != "ServiceMonitor"]
    whole = {"apiVersion": "v1", "kind": "List", "items": known}
    answer = kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", objects=whole)
    assert answer.ok, answer.err
    assert "Warning" not in answer.err
    assert answer.out.count("serverside-applied") == len(known)


@pytest.mark.req("REQ-DEPLOY-004")
@pytest.mark.parametrize("namespaced", [False, True], ids=["all-namespaces", "named-namespaces"])
@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="defaults"),
        pytest.param(
            {
                "router": {
                    "replicas": 2,
                    "service": {"type": "LoadBalancer"},
                    "affinity": {"nodeAffinity": {}},
                    "tolerations": [{"key": "gpu", "operator": "Exists"}],
                    "extraEnv": [{"name": "MODELMORA_MAX_ITEMS", "value": "7"}],
                },
                "worker": {"cache": {"sizeLimit": "20Gi"}, "imagePullSecrets": [{"name": "pull"}]},
                "networkPolicy": {"routerFrom": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]},
                "metrics": {"serviceMonitor": {"enabled": True}},
            },
            id="much-of-it",
        ),
    ],
)
def test_an_api_server_takes_every_object(
    kubectl: Kubectl, helm: Helm, places: tuple[str, str], values: Object, namespaced: bool
) -> None:
    home, team = places
    where = {"watchNamespaces": [team]} if namespaced else {}
    taken(kubectl, helm.rendered(values | where, namespace=home))


def test_an_api_server_takes_what_plain_kubectl_gives_it(kubectl: Kubectl, places: tuple[str, str]) -> None:
    text = kubectl.must("kustomize", str(ROOT / "charts/kustomize")).replace("modelmora-system", places[0])
    taken(kubectl, [made for made in yaml.safe_load_all(text) if made["kind"] != "Namespace"])


@pytest.fixture(scope="module")
def bound(kubectl: Kubectl, helm: Helm, places: tuple[str, str]) -> tuple[str, str]:
    """The rights of an installation that serves one namespace, for real."""
    home, team = places
    objects = helm.rendered({"watchNamespaces": [team], "crds": {"install": False}}, namespace=home)
    rights = [made for made in of_kind(objects, *RIGHTS) if not is_hook(made)]
    kubectl.must("apply", "-f", "-", objects={"apiVersion": "v1", "kind": "List", "items": rights})
    return places


@pytest.mark.parametrize(
    ("who", "may", "verb", "what", "where"),
    [
        ("operator", True, "create", "pods", "team"),
        ("operator", True, "patch", "modeldeployments.modelmora.io --subresource=status", "team"),
        ("operator", False, "patch", "modeldeployments.modelmora.io", "team"),
        ("operator", True, "patch", "modelroutes.modelmora.io --subresource=status", "team"),
        ("operator", False, "patch", "modelroutes.modelmora.io", "team"),
        ("operator", False, "update", "modeldeployments.modelmora.io", "team"),
        ("operator", False, "delete", "modeldeployments.modelmora.io", "team"),
        ("operator", False, "get", "secrets", "team"),
        ("operator", False, "create", "pods --subresource=exec", "team"),
        ("operator", False, "list", "pods", "home"),
        ("operator", False, "list", "pods", "default"),
        ("operator", True, "list", "leases.coordination.k8s.io", "home"),
        ("operator", False, "patch", "leases.coordination.k8s.io", "home"),
        ("operator", False, "list", "leases.coordination.k8s.io", "team"),
        ("router", True, "watch", "pods", "team"),
        ("router", True, "watch", "modeldeployments.modelmora.io", "team"),
        ("router", True, "watch", "modelroutes.modelmora.io", "team"),
        ("router", False, "patch", "modelroutes.modelmora.io --subresource=status", "team"),
        ("router", False, "patch", "modeldeployments.modelmora.io --subresource=status", "team"),
        ("router", False, "delete", "pods", "team"),
        ("router", False, "get", "secrets", "team"),
        ("router", True, "patch", "leases.coordination.k8s.io", "home"),
        ("router", False, "patch", "leases.coordination.k8s.io", "team"),
    ],
)
def test_the_server_allows_what_is_used_and_nothing_else(
    kubectl: Kubectl, bound: tuple[str, str], who: str, may: bool, verb: str, what: str, where: str
) -> None:
    home, team = bound
    namespace = {"home": home, "team": team}.get(where, where)
    account = f"system:serviceaccount:{home}:modelmora-{who}"
    answer = kubectl("auth", "can-i", verb, *what.split(), "-n", namespace, "--as", account)
    assert answer.out.strip() == ("yes" if may else "no"), answer.err


def test_the_notes_say_how_to_ask_a_first_model(helm: Helm) -> None:
    place = ("--namespace", "elsewhere", "--set", "crds.install=false")
    notes = helm.must("install", "modelmora", str(CHART), "--dry-run=client", *place)
    assert "kubectl apply -n default -f examples/minilm.yaml" in notes
    assert "kubectl port-forward -n elsewhere service/modelmora-router 8080 9000" in notes
    assert "serves the models of every namespace" in notes
