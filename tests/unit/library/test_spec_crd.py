import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelmora.spec import ModelDeployment, crd
from tests.support.manifests import manifest

ROOT = Path(__file__).parents[3]


def _generated() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("generate_crds", ROOT / "tools" / "generate_crds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    texts: dict[str, str] = module.generated()
    return texts


@pytest.mark.req("REQ-REG-003")
@pytest.mark.parametrize("name", sorted(_generated()))
def test_the_checked_in_file_follows_from_the_models(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == _generated()[name], "run tools/generate_crds.py"


def test_no_definition_is_left_over() -> None:
    assert {path.name for path in (ROOT / "crds").iterdir()} == set(crd.manifests())


def _schemas() -> dict[str, Any]:
    return {
        definition["spec"]["names"]["kind"]: definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for definition in crd.definitions()
    }


def _nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _nodes(child, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from _nodes(schema[name], f"{path}[]")


NODES = [(kind + path, node) for kind, schema in _schemas().items() for path, node in _nodes(schema)]
FORBIDDEN = {"$ref", "const", "anyOf", "allOf", "oneOf", "uniqueItems", "exclusiveMinimum", "exclusiveMaximum", "title"}


@pytest.mark.req("REQ-REG-003")
@pytest.mark.parametrize(("path", "node"), NODES, ids=[path for path, _ in NODES])
def test_every_node_is_structural_and_bounded(path: str, node: dict[str, Any]) -> None:
    assert not FORBIDDEN & node.keys()
    assert "type" in node or node.get("x-kubernetes-int-or-string")
    if node.get("type") == "string" and "enum" not in node and node.get("format") != "date-time":
        assert "maxLength" in node or path.endswith((".apiVersion", ".kind"))
    if node.get("type") == "array":
        assert "maxItems" in node
    if "additionalProperties" in node:
        assert "maxProperties" in node


@pytest.mark.req("REQ-REG-003")
def test_every_field_of_the_spec_is_described() -> None:
    inside = [path for path, node in NODES if ".spec." in path and "[]" not in path and "description" not in node]
    assert inside == []


def test_the_defaults_of_the_schema_are_those_of_python() -> None:
    filled = _with_defaults(_schemas()["ModelDeployment"], manifest(sharedMemory={}))
    assert ModelDeployment.stored(filled) == ModelDeployment.parse(manifest(sharedMemory={}))
    assert filled["spec"]["scaling"]["maxReplicas"] == 1
    assert filled["spec"]["gpu"] == {"mode": "None", "resourceName": "nvidia.com/gpu"}


def _with_defaults(schema: dict[str, Any], value: Any) -> Any:
    """What an API server makes of an object."""
    if not isinstance(value, dict):
        return value
    filled = dict(value)
    for name, child in schema.get("properties", {}).items():
        if name not in filled and "default" in child:
            filled[name] = child["default"]
        if name in filled:
            filled[name] = _with_defaults(child, filled[name])
    return filled


@pytest.mark.parametrize("name", ["modeldeployments.modelmora.io", "modelroutes.modelmora.io"])
def test_names_and_subresources_are_those_that_people_type(name: str) -> None:
    definition = yaml.safe_load((ROOT / "crds" / f"{name}.yaml").read_text(encoding="utf-8"))
    names = definition["spec"]["names"]
    assert names["shortNames"] == [{"ModelDeployment": "mmd", "ModelRoute": "mmr"}[names["kind"]]]
    assert names["categories"] == ["modelmora"]
    assert "status" in definition["spec"]["versions"][0]["subresources"]


def test_the_columns_are_model_ready_reason_replicas_version_age() -> None:
    (definition, _) = crd.definitions()
    columns = definition["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == [
        "Model",
        "Ready",
        "Reason",
        "Replicas",
        "Version",
        "Age",
    ]
    assert [column["name"] for column in columns if column.get("priority")] == ["Node", "VRAM", "Source"]
