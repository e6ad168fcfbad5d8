from typing import Any

import pytest

from modelmora.errors import InvalidManifest
from modelmora.spec import ModelDeployment, ModelRoute, cluster_only_fields, forbidden_changes
from modelmora.spec.cluster_only import FIELDS
from modelmora.spec.crd import definitions
from modelmora.spec.deployment_rules import DEPLOYMENT_RULES
from modelmora.spec.route_spec import ROUTE_RULES
from tests.support.broken_rules import BROKEN_DEPLOYMENTS, BROKEN_ROUTES
from tests.support.manifests import manifest, route


@pytest.mark.req("REQ-REG-003")
@pytest.mark.parametrize(("broken", "field"), BROKEN_DEPLOYMENTS)
def test_a_broken_rule_between_fields_is_told_by_its_field(broken: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        ModelDeployment.parse(broken)
    assert caught.value.context.field == field
    assert caught.value.context.remedy


@pytest.mark.parametrize(("broken", "field"), BROKEN_ROUTES)
def test_a_broken_rule_of_a_route_is_told_by_its_field(broken: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        ModelRoute.parse(broken)
    assert caught.value.context.field == field


def test_every_rule_is_broken_by_one_of_the_examples() -> None:
    deployments = [ModelDeployment.stored(broken) for broken, _ in (case.values for case in BROKEN_DEPLOYMENTS)]
    routes = [ModelRoute.stored(broken).spec for broken, _ in (case.values for case in BROKEN_ROUTES)]
    assert [rule for rule in DEPLOYMENT_RULES if not any(_breaks(rule.broken(one)) for one in deployments)] == []
    assert [rule for rule in ROUTE_RULES if not any(_breaks(rule.broken(one)) for one in routes)] == []


def _breaks(found: Any) -> bool:
    return found if isinstance(found, bool) else bool(list(found))


@pytest.mark.parametrize(
    "good",
    [
        manifest(scaling={"minReplicas": 2, "maxReplicas": 2, "initialReplicas": 2}),
        manifest(gpu={"mode": "Shared", "memory": "6Gi"}),
        manifest(gpu={"mode": "Exclusive", "count": 2}),
        manifest(resources={"requests": {"memory": "1000Mi"}, "limits": {"memory": "1Gi"}}),
        manifest(sharedMemory={"sizeLimit": "1Gi", "sessionQuota": "1024Mi"}),
        manifest(model={"task": "txt2speech"}, runtime={"engine": "python:speech:Engine"}),
        manifest(sidecars=[{"name": "a", "image": "a:1"}], scaling={"minReplicas": 1}, eviction={"policy": "Never"}),
    ],
    ids=str,
)
def test_what_touches_a_rule_without_breaking_it_is_accepted(good: dict[str, Any]) -> None:
    ModelDeployment.parse(good)


def test_id_and_version_cannot_be_changed() -> None:
    old = ModelDeployment.parse(manifest())
    assert forbidden_changes(old, ModelDeployment.parse(manifest(scaling={"maxReplicas": 3}))) == []
    other = ModelDeployment.parse(manifest(model={"id": "org/other", "version": "2.0.0"}))
    assert [problem.field for problem in forbidden_changes(old, other)] == ["spec.model.id", "spec.model.version"]


def test_writing_out_the_default_id_changes_nothing() -> None:
    old = ModelDeployment.parse(manifest("minilm", model={"id": None}))
    assert forbidden_changes(old, ModelDeployment.parse(manifest("minilm", model={"id": "minilm"}))) == []


@pytest.mark.req("REQ-DEPLOY-003")
def test_fields_that_only_a_cluster_honours_are_named_when_set() -> None:
    deployment = ModelDeployment.parse(
        manifest(
            runtime={"image": "worker:1", "env": [{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"x": {}}}]},
            resources={"requests": {"cpu": 1}},
            podTemplate={"spec": {"nodeSelector": {}}},
        )
    )
    expected = ["spec.runtime.image", "spec.resources", "spec.podTemplate", "spec.runtime.env[1].valueFrom"]
    assert cluster_only_fields(deployment) == expected
    assert cluster_only_fields(ModelDeployment.parse(manifest())) == []


def test_the_descriptions_say_which_fields_only_a_cluster_honours() -> None:
    schema = definitions()[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    said = {path for path, text in _descriptions(schema, "spec") if "Only in a cluster." in text}
    assert said == {*FIELDS, "spec.runtime.env[].valueFrom"}


def _descriptions(schema: dict[str, Any], path: str) -> list[tuple[str, str]]:
    below = schema.get("items", schema)
    prefix = f"{path}[]" if "items" in schema else path
    found = [(path, schema.get("description", ""))]
    return found + [
        item for name, child in below.get("properties", {}).items() for item in _descriptions(child, f"{prefix}.{name}")
    ]


def test_a_route_is_read_with_its_default_weight() -> None:
    parsed = ModelRoute.parse(
        route(backends=[{"name": "a", "weight": 9}, {"name": "b"}], mirror={"name": "c", "percent": 5})
    )
    assert [(backend.name, backend.weight) for backend in parsed.spec.backends] == [("a", 9), ("b", 1)]
    assert ModelRoute.stored(parsed.manifest()) == parsed


TWO = [{"name": "old", "weight": 95}, {"name": "new", "weight": 5}]


@pytest.mark.req("RM-4.3b")
def test_a_rollback_is_read_with_its_defaults() -> None:
    rollback = ModelRoute.parse(route(backends=TWO, rollback={"errorPercent": 5})).spec.rollback
    assert rollback
    assert (rollback.error_percent, rollback.min_requests, rollback.window_seconds) == (5, 20, 60)


@pytest.mark.req("RM-4.3b")
@pytest.mark.parametrize(
    ("rollback", "field"),
    [
        ({}, "errorPercent"),
        ({"errorPercent": 0}, "errorPercent"),
        ({"errorPercent": 101}, "errorPercent"),
        ({"errorPercent": 5, "minRequests": 0}, "minRequests"),
        ({"errorPercent": 5, "minRequests": 100_001}, "minRequests"),
        ({"errorPercent": 5, "windowSeconds": 0}, "windowSeconds"),
        ({"errorPercent": 5, "windowSeconds": 3601}, "windowSeconds"),
    ],
)
def test_a_rollback_has_bounds(rollback: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        ModelRoute.parse(route(backends=TWO, rollback=rollback))
    assert caught.value.context.field == f"spec.rollback.{field}"


@pytest.mark.req("RM-4.3b")
@pytest.mark.parametrize(
    ("weights", "at_risk"),
    [((95, 5), {"b"}), ((5, 95), {"a"}), ((50, 50), {"b"}), ((5, 5, 90), {"a", "b"}), ((0, 1), {"a"})],
)
def test_all_but_the_first_with_the_largest_weight_are_at_risk(weights: tuple[int, ...], at_risk: set[str]) -> None:
    backends = [{"name": name, "weight": weight} for name, weight in zip("abc", weights, strict=False)]
    assert ModelRoute.parse(route(backends=backends, rollback={"errorPercent": 5})).spec.at_risk == at_risk
    assert ModelRoute.parse(route(backends=backends)).spec.at_risk == frozenset()
