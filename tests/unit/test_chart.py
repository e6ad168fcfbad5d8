"""The chart, rendered: every pod is locked down, nobody has a right that is not used, and typos are refused."""

import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from modelmora.kube import names
from modelmora_operator.cluster_settings import KubernetesOperatorSettings
from modelmora_router.settings import ClusterSettings, RouterSettings
from tests.support.helm import CHART, ROOT, Helm, Object, is_hook, named, of_kind, pod_of

pytestmark = pytest.mark.helm

NAMESPACED: Object = {"watchNamespaces": ["team-a", "team-b"], "crds": {"install": False}}
EVERYTHING: Object = {
    "image": {"registry": "registry.example/x/", "tag": "1.2.3", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "pull"}],
    "commonLabels": {"team": "ml"},
    "operator": {
        "initialReplicas": 0,
        "maxWorkers": 4,
        "priorityClassName": "high",
        "nodeSelector": {"a": "b"},
        "affinity": {},
    },
    "router": {
        "replicas": 3,
        "processes": 2,
        "defaultNamespace": "team-b",
        "drainTimeoutSeconds": 60,
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "extraEnv": [{"name": "MODELMORA_MAX_ITEMS", "value": "7"}],
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
    },
    "worker": {
        "image": "other/worker@sha256:abc",
        "imagePullSecrets": [{"name": "pull"}],
        "drainTimeoutSeconds": 45,
        "cache": {"claimName": "models", "sizeLimit": "20Gi"},
    },
    "networkPolicy": {"routerFrom": [{"namespaceSelector": {}}]},
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True, "annotations": {"grafana_folder": "models"}},
        "alerts": {"enabled": True, "labels": {"release": "prometheus"}},
    },
}
SETS = [
    pytest.param({}, id="defaults"),
    pytest.param(NAMESPACED, id="namespaced"),
    pytest.param(EVERYTHING, id="everything"),
    pytest.param(NAMESPACED | EVERYTHING, id="everything-namespaced"),
]
PARTS = ("operator", "router")
NOT_READY = {
    "key": "node.kubernetes.io/not-ready",
    "operator": "Exists",
    "effect": "NoExecute",
    "tolerationSeconds": 15,
}


def environment(workload: Object) -> dict[str, Any]:
    variables = pod_of(workload)["containers"][0]["env"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in variables}


def rights(objects: list[Object], account: str) -> set[tuple[str, str, str, str]]:
    """Where, what and which verbs that account may, by the bindings."""
    found = set()
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        if binding["subjects"] != [{"kind": "ServiceAccount", "name": account, "namespace": "home"}]:
            continue
        place = binding["metadata"].get("namespace", "*")
        role = next(
            made
            for made in of_kind(objects, binding["roleRef"]["kind"])
            if made["metadata"]["name"] == binding["roleRef"]["name"]
            and made["metadata"].get("namespace", "*") == place
        )
        for rule in role["rules"]:
            for resource in rule["resources"]:
                only = ",".join(rule.get("resourceNames", []))
                found.add((place, resource, only, " ".join(rule["verbs"])))
    return found


@pytest.mark.req("REQ-DEPLOY-004")
def test_helm_finds_nothing_to_complain_about(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm.must("lint", "--strict", "--kube-version", "1.29.0", str(CHART))


@pytest.mark.parametrize("values", SETS)
def test_every_pod_is_locked_down(helm: Helm, values: Object) -> None:
    workloads = of_kind(helm.rendered(values), "Deployment", "Job")
    assert len(workloads) == 3
    for workload in workloads:
        pod = pod_of(workload)
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert NOT_READY in pod["tolerations"]
        assert NOT_READY | {"key": "node.kubernetes.io/unreachable"} in pod["tolerations"]
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
            assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("values", SETS)
def test_what_a_pod_runs_as_and_is_found_by_exists(helm: Helm, values: Object) -> None:
    objects = helm.rendered(values)
    accounts = {made["metadata"]["name"] for made in of_kind(objects, "ServiceAccount")}
    for workload in of_kind(objects, "Deployment", "Job"):
        assert pod_of(workload)["serviceAccountName"] in accounts
    for service in of_kind(objects, "Service"):
        labels = named(objects, "Deployment", service["metadata"]["name"])["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        ports = named(objects, "Deployment", service["metadata"]["name"])["spec"]["template"]["spec"]["containers"][0]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= {port["name"] for port in ports["ports"]}


@pytest.mark.req("REQ-DEPLOY-004")
def test_nobody_has_a_right_that_is_not_used(helm: Helm) -> None:
    objects = helm.rendered({})
    assert rights(objects, "modelmora-operator") == {
        ("*", "modeldeployments", "", "list watch"),
        ("*", "modelroutes", "", "list watch"),
        ("*", "modeldeployments/status", "", "patch"),
        ("*", "modelroutes/status", "", "patch"),
        ("*", "pods", "", "get list watch create delete"),
        ("*", "events", "", "create"),
        ("home", "leases", "", "list watch"),
    }
    assert rights(objects, "modelmora-router") == {
        ("*", "modeldeployments", "", "list watch"),
        ("*", "modelroutes", "", "list watch"),
        ("*", "pods", "", "list watch"),
        ("home", "leases", "", "create patch delete"),
    }
    assert rights(objects, "modelmora-uninstall") == {
        ("*", "pods", "", "list delete"),
        ("home", "deployments", "modelmora-operator", "get delete"),
    }


def test_with_named_namespaces_nobody_has_a_right_elsewhere(helm: Helm) -> None:
    objects = helm.rendered(NAMESPACED)
    assert of_kind(objects, "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition") == []
    for account, of_its_own in (("operator", 6), ("router", 3), ("uninstall", 1)):
        places = [place for place, *_ in rights(objects, f"modelmora-{account}")]
        assert sorted(set(places)) == ["home", "team-a", "team-b"]
        assert places.count("team-a") == places.count("team-b") == of_its_own
        assert places.count("home") == 1


def test_no_role_names_everything(helm: Helm) -> None:
    for role in of_kind(helm.rendered({}), "Role", "ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "secrets" not in rule["resources"]


@pytest.mark.req("REQ-REG-003")
def test_the_definitions_are_templates_that_stay(helm: Helm) -> None:
    definitions = of_kind(helm.rendered({"crds": {"annotations": {"a": "b"}}}), "CustomResourceDefinition")
    written = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / "crds").glob("*.yaml")}
    assert len(definitions) == len(written) == 2
    for definition in definitions:
        assert definition["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep", "a": "b"}
        assert definition["spec"] == written[f"{definition['metadata']['name']}.yaml"]["spec"]
    assert not (CHART / "crds").exists(), "helm never upgrades what is in that folder"


def test_the_programs_are_told_what_the_values_say(helm: Helm) -> None:
    objects = helm.rendered(NAMESPACED | EVERYTHING)
    operator = environment(named(objects, "Deployment", "modelmora-operator"))
    home = {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert operator == {
        "MODELMORA_OPERATOR_NAMESPACE": home,
        "MODELMORA_OPERATOR_NAMESPACES": '["team-a","team-b"]',
        "MODELMORA_OPERATOR_PORT": "8081",
        "MODELMORA_OPERATOR_WORKER_IMAGE": "other/worker@sha256:abc",
        "MODELMORA_OPERATOR_WORKER_IMAGE_PULL_POLICY": "Always",
        "MODELMORA_OPERATOR_WORKER_IMAGE_PULL_SECRETS": '["pull"]',
        "MODELMORA_OPERATOR_DRAIN_TIMEOUT_S": "45",
        "MODELMORA_OPERATOR_CACHE_CLAIM_NAME": "models",
        "MODELMORA_OPERATOR_CACHE_SIZE_LIMIT": "20Gi",
        "MODELMORA_OPERATOR_INITIAL_REPLICAS": "0",
        "MODELMORA_OPERATOR_RECONCILE_CONCURRENCY": "8",
        "MODELMORA_OPERATOR_MAX_WORKERS": "4",
        "MODELMORA_OPERATOR_LOG_LEVEL": "INFO",
        "MODELMORA_OPERATOR_LOG_FORMAT": "json",
    }
    router = environment(named(objects, "Deployment", "modelmora-router"))
    assert router["MODELMORA_ROUTER_NAMESPACE"] == home
    assert router["MODELMORA_ROUTER_POD_UID"] == {"fieldRef": {"fieldPath": "metadata.uid"}}
    assert router["MODELMORA_DEFAULT_NAMESPACE"] == "team-b"
    assert router["MODELMORA_MAX_ITEMS"] == "7"
    assert router["MODELMORA_PROCESSES"] == "2"


@pytest.mark.parametrize("values", SETS)
def test_every_variable_is_a_setting_of_the_program(helm: Helm, values: Object) -> None:
    told = {part: set(environment(named(helm.rendered(values), "Deployment", f"modelmora-{part}"))) for part in PARTS}
    told["uninstall"] = set(environment(named(helm.rendered(values), "Job", "modelmora-uninstall")))
    assert told["operator"] | told["uninstall"] <= settings(KubernetesOperatorSettings)
    assert told["router"] <= settings(ClusterSettings) | settings(RouterSettings)


def settings(kind: type[BaseSettings]) -> set[str]:
    return {f"{kind.model_config['env_prefix']}{field.upper()}" for field in kind.model_fields}


def test_images_have_the_version_of_the_chart_which_is_ours(helm: Helm) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version
    for workload in of_kind(helm.rendered({}), "Deployment", "Job"):
        assert re.fullmatch(rf"modelmora/(operator|router):{version}", pod_of(workload)["containers"][0]["image"])


@pytest.mark.parametrize(
    ("values", "namespace"),
    [
        pytest.param({}, "default", id="all-namespaces"),
        pytest.param(NAMESPACED, "team-a", id="the-first"),
        pytest.param(NAMESPACED | {"router": {"defaultNamespace": "team-b"}}, "team-b", id="as-said"),
    ],
)
def test_a_request_without_a_namespace_goes_where_models_are(helm: Helm, values: Object, namespace: str) -> None:
    router = named(helm.rendered(values), "Deployment", "modelmora-router")
    assert environment(router)["MODELMORA_DEFAULT_NAMESPACE"] == namespace


def test_a_router_has_the_time_that_its_drain_needs(helm: Helm) -> None:
    router = named(helm.rendered({"router": {"drainTimeoutSeconds": 100}}), "Deployment", "modelmora-router")
    told = environment(router)
    needed = float(told["MODELMORA_DRAIN_TIMEOUT_S"]) + float(told["MODELMORA_CLOSE_TIMEOUT_S"])
    before = float(pod_of(router)["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert needed > 100
    assert pod_of(router)["terminationGracePeriodSeconds"] > needed + before


def test_two_routers_are_never_evicted_together_and_one_can_be(helm: Helm) -> None:
    assert of_kind(helm.rendered({}), "PodDisruptionBudget") == []
    budgets = of_kind(helm.rendered({"router": {"replicas": 2}}), "PodDisruptionBudget")
    assert [budget["spec"]["maxUnavailable"] for budget in budgets] == [1]


def test_the_operator_is_never_there_twice(helm: Helm) -> None:
    operator = named(helm.rendered({}), "Deployment", "modelmora-operator")
    assert operator["spec"]["replicas"] == 1
    assert operator["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("values", SETS)
def test_uninstalling_stops_the_workers_first_with_rights_of_its_own(helm: Helm, values: Object) -> None:
    objects = helm.rendered(values)
    hooks = [made for made in objects if is_hook(made)]
    job = named(hooks, "Job", "modelmora-uninstall")
    told = pod_of(job)["containers"][0]
    drain = int(environment(named(objects, "Deployment", "modelmora-operator"))["MODELMORA_OPERATOR_DRAIN_TIMEOUT_S"])
    assert told["args"] == ["stop-workers", "--operator-deployment=modelmora-operator", f"--timeout-s={drain + 60}"]
    assert job["spec"]["activeDeadlineSeconds"] > drain + 60
    named(hooks, "ServiceAccount", pod_of(job)["serviceAccountName"])
    weights = {made["kind"]: int(made["metadata"]["annotations"]["helm.sh/hook-weight"]) for made in hooks}
    assert {kind for kind, weight in weights.items() if weight < weights["Job"]} == set(weights) - {"Job"}
    for hook in hooks:
        assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
        assert "hook-succeeded" in hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"]


def test_workers_take_calls_of_the_router_and_the_operator_alone(helm: Helm) -> None:
    policies = [
        made
        for made in of_kind(helm.rendered(NAMESPACED), "NetworkPolicy")
        if made["metadata"]["name"] == "modelmora-worker"
    ]
    assert [policy["metadata"]["namespace"] for policy in policies] == ["team-a", "team-b"]
    for policy in policies:
        assert policy["spec"]["podSelector"] == {"matchLabels": {names.COMPONENT: names.WORKER}}
        ours, others = policy["spec"]["ingress"]
        assert ours["ports"] == [{"port": names.CALL_PORT, "endPort": names.HEALTH_PORT}]
        assert [peer["namespaceSelector"]["matchLabels"] for peer in ours["from"]] == [
            {"kubernetes.io/metadata.name": "home"}
        ] * 2
        assert others["ports"] == [
            {"port": 1, "endPort": names.CALL_PORT - 1},
            {"port": names.HEALTH_PORT + 1, "endPort": 65535},
            {"protocol": "UDP", "port": 1, "endPort": 65535},
        ]


def test_network_policies_can_be_left_out(helm: Helm) -> None:
    assert of_kind(helm.rendered({"networkPolicy": {"enabled": False}}), "NetworkPolicy") == []


def test_nothing_is_scraped_unless_it_is_asked_for(helm: Helm) -> None:
    assert of_kind(helm.rendered({}), "ServiceMonitor", "PrometheusRule", "ConfigMap") == []
    made = helm.rendered(EVERYTHING)
    for part in PARTS:
        monitor = named(made, "ServiceMonitor", f"modelmora-{part}")
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        assert monitor["spec"]["endpoints"][0]["path"] == "/metrics"
        port, wanted = monitor["spec"]["endpoints"][0]["port"], monitor["spec"]["selector"]["matchLabels"]
        services = [s for s in of_kind(made, "Service") if wanted.items() <= s["metadata"]["labels"].items()]
        assert [each["name"] for each in services[0]["spec"]["ports"] if each["name"] == port] == [port]


def test_the_dashboard_and_the_alerts_are_those_of_the_chart(helm: Helm) -> None:
    made = helm.rendered(EVERYTHING)
    dashboard = named(made, "ConfigMap", "modelmora-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    kept = (CHART / "dashboards" / "modelmora.json").read_text()
    assert json.loads(dashboard["data"]["modelmora.json"]) == json.loads(kept)
    rules = named(made, "PrometheusRule", "modelmora")
    assert rules["metadata"]["labels"]["release"] == "prometheus"
    assert rules["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"watchNamespace": ["a"]}, "watchNamespace"),
        ({"router": {"replica": 2}}, "replica"),
        ({"router": {"replicas": 0}}, "replicas"),
        ({"router": {"processes": 0}}, "processes"),
        ({"watchNamespaces": "a"}, "watchNamespaces"),
        ({"watchNamespaces": ["Team_A"]}, "watchNamespaces"),
        ({"image": {"tag": 1.0}}, "tag"),
        ({"operator": {"logLevel": "loud"}}, "logLevel"),
        ({"operator": {"maxWorkers": 0}}, "maxWorkers"),
        ({"worker": {"cache": {"sizeLimit": "20 GB"}}}, "sizeLimit"),
        ({"imagePullSecrets": ["pull"]}, "imagePullSecrets"),
        ({"crds": {"keep": False}}, "keep"),
    ],
    ids=str,
)
def test_a_typo_is_refused_and_named(helm: Helm, values: Object, words: str) -> None:
    answer = helm.template(values)
    assert not answer.ok
    assert "values don't meet the specifications of the schema" in answer.err
    assert words in answer.err


def test_every_value_is_in_the_schema_and_with_its_default_in_the_documentation() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    page = (ROOT / "docs/installation.md").read_text()
    for name, default in _leaves(values):
        told = "see values.yaml" if name.endswith(".resources") else f"`{json.dumps(default)}`"
        assert f"| `{name}` | {told} |" in page
        _in_schema(schema, name.split("."))


def _leaves(values: Object, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value and name != "resources":
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _in_schema(schema: Object, path: list[str]) -> None:
    node = schema
    for name in path:
        assert node["additionalProperties"] is False
        node = node["properties"][name]


def test_plain_kubectl_gets_what_the_chart_makes(helm: Helm) -> None:
    spec = importlib.util.spec_from_file_location("generate_install", ROOT / "tools" / "generate_install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kept = (ROOT / "charts/kustomize/install.yaml").read_text()
    assert module.install(helm.program) == kept, "run tools/generate_install.py"
    objects = list(yaml.safe_load_all(kept))
    assert "helm" not in kept.lower()
    assert of_kind(objects, "Job") == []
    assert {made["metadata"].get("namespace", "modelmora-system") for made in objects} == {"modelmora-system"}
