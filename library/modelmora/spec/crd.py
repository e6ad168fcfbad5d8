"""The CustomResourceDefinitions, built from the pydantic models.

pydantic's JSON schema becomes a structural schema: references are put in place, `null` alternatives and titles go,
`const` becomes `enum`, defaults that hold something are written out (rules in CEL see them), lists that have a name in
each item become maps for server-side apply, and the rules between fields are attached where they belong.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from modelmora.spec.deployment import ModelDeployment
from modelmora.spec.deployment_rules import CHANGE_RULES, DEPLOYMENT_RULES
from modelmora.spec.route import ModelRoute
from modelmora.spec.route_spec import ROUTE_RULES
from modelmora.spec.rules import ChangeRule, Rule
from modelmora.spec.schema import API_GROUP, MAX_INT32, MAX_NAME

Schema = dict[str, Any]

_VERSION = "v1alpha1"
_HEADER = "# Generated from modelmora.spec by tools/generate_crds.py; do not edit.\n"
_KEPT = (
    "description",
    "type",
    "format",
    "enum",
    "default",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
)
# The key of lists whose items have one.
_LIST_KEYS = {
    "spec.runtime.env": "name",
    "spec.runtime.files": "path",
    "spec.sidecars": "name",
    "spec.backends": "name",
    "status.backends": "name",
    "status.rolledBack": "name",
    "status.conditions": "type",
}
_READY = '.status.conditions[?(@.type=="Ready")]'
_DEPLOYMENT_COLUMNS = (
    ("Model", "string", ".spec.model.id", 0, "What clients ask for; empty: the name"),
    ("Ready", "string", f"{_READY}.status", 0, "Whether it can answer"),
    ("Reason", "string", f"{_READY}.reason", 0, "Why"),
    ("Replicas", "string", ".status.readyOfDesired", 0, "Workers that serve, of those wanted"),
    ("Version", "string", ".spec.model.version", 0, "Of the model"),
    ("Age", "date", ".metadata.creationTimestamp", 0, ""),
    ("Node", "string", ".status.node", 1, "Where the workers run"),
    ("VRAM", "integer", ".status.resources.vramBytes", 1, "Bytes on the accelerator, measured"),
    ("Source", "string", ".spec.model.source.uri", 1, "Where the files come from"),
)
_ROUTE_COLUMNS = (
    ("Model", "string", ".spec.modelId", 0, "What clients ask for"),
    ("Ready", "string", f"{_READY}.status", 0, "Whether it is in effect"),
    ("Backends", "string", ".spec.backends[*].name", 0, "Who answers"),
    ("Mirror", "string", ".spec.mirror.name", 1, "Who gets copies"),
    ("Age", "date", ".metadata.creationTimestamp", 0, ""),
)
_SCALE = {
    "specReplicasPath": ".spec.scaling.minReplicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".status.selector",
}


def manifests() -> dict[str, str]:
    """The YAML of each definition by its file name."""
    return {f"{definition['metadata']['name']}.yaml": _yaml(definition) for definition in definitions()}


def definitions() -> list[Schema]:
    """Both CustomResourceDefinitions."""
    deployment_schema = resource_schema(ModelDeployment, [*DEPLOYMENT_RULES, *CHANGE_RULES])
    route_schema = resource_schema(ModelRoute, ROUTE_RULES)
    return [
        _definition("ModelDeployment", "mmd", deployment_schema, _DEPLOYMENT_COLUMNS, {"scale": _SCALE}),
        _definition("ModelRoute", "mmr", route_schema, _ROUTE_COLUMNS, {}),
    ]


def resource_schema(kind: type[BaseModel], rules: Iterable[Rule[Any] | ChangeRule[Any]]) -> Schema:
    """The structural schema of a resource with its rules."""
    written = kind.model_json_schema(by_alias=True)
    schema = _structural(written, written.get("$defs", {}))
    properties = schema["properties"]
    properties["apiVersion"] = {"type": "string", "description": f"{API_GROUP}/{_VERSION}"}
    properties["kind"] = {"type": "string", "description": kind.__name__}
    properties["metadata"] = {"type": "object", "properties": {"name": {"type": "string", "maxLength": MAX_NAME}}}
    properties["status"].pop("default", None)  # an API server refuses one: only the operator writes the status
    for path, key in _LIST_KEYS.items():
        if (node := _find(schema, path)) is not None:
            node |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    for rule in rules:
        if rule.cel:
            _attach(schema, rule)
    return schema


def _definition(
    kind: str, short: str, schema: Schema, columns: Iterable[tuple[str, str, str, int, str]], subresources: Schema
) -> Schema:
    singular = kind.lower()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{singular}s.{API_GROUP}"},
        "spec": {
            "group": API_GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": f"{singular}s",
                "singular": singular,
                "shortNames": [short],
                "categories": ["modelmora"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": _VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [_column(*column) for column in columns],
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}} | subresources,
                }
            ],
        },
    }


def _column(name: str, kind: str, path: str, priority: int, description: str) -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path}
    column |= {"description": description} if description else {}
    return column | ({"priority": priority} if priority else {})


def _structural(written: Mapping[str, Any], shared: Mapping[str, Any]) -> Schema:
    """One node of pydantic's schema as Kubernetes wants it; `shared` holds what references name."""
    node = _resolved(written, shared)
    schema = {name: node[name] for name in _KEPT if name in node}
    schema |= {name: value for name, value in node.items() if name.startswith("x-kubernetes-")}
    if "const" in node:
        schema["enum"] = [node["const"]]
    if "properties" in node:
        schema["properties"] = {name: _structural(child, shared) for name, child in node["properties"].items()}
    if "items" in node:
        schema["items"] = _structural(node["items"], shared)
    if isinstance(node.get("additionalProperties"), Mapping):
        schema["additionalProperties"] = _structural(node["additionalProperties"], shared)
    if schema.get("type") == "integer":
        schema["format"] = "int32" if schema.get("maximum", 0) <= MAX_INT32 else "int64"
    return _with_default(schema)


def _with_default(schema: Schema) -> Schema:
    """An object's default is that of its fields, written out; what is empty, but for such an object, needs none."""
    if (default := schema.pop("default", None)) is None:
        return schema
    if "properties" in schema:
        inside = schema["properties"].items()
        return schema | {"default": {name: field["default"] for name, field in inside if "default" in field}}
    return schema if default in ("", [], {}) else schema | {"default": default}


def _resolved(node: Mapping[str, Any], shared: Mapping[str, Any]) -> Schema:
    """The node with its reference, or its one alternative that is not null, put in place; its own words win."""
    own = {name: value for name, value in node.items() if name not in {"$ref", "anyOf", "allOf"}}
    if "$ref" in node:
        return _resolved(shared[node["$ref"].rpartition("/")[2]], shared) | own
    if "anyOf" in node:
        (only,) = (choice for choice in node["anyOf"] if choice.get("type") != "null")
        return _resolved(only, shared) | own
    return own


def _find(schema: Schema, path: str) -> Schema | None:
    """The node at a path such as spec.runtime.env[]."""
    node: Schema | None = schema
    for name in path.split(".") if path else []:
        node = node.get("properties", {}).get(name.removesuffix("[]")) if node else None
        node = node["items"] if node and name.endswith("[]") else node
    return node


def _attach(schema: Schema, rule: Rule[Any] | ChangeRule[Any]) -> None:
    node = _find(schema, rule.at)
    if node is None:
        raise LookupError(f"no field {rule.at!r} in the schema")
    last = rule.field.rpartition(".")[2]
    said = {"rule": rule.cel, "message": f"{last} {rule.message}", "fieldPath": f".{rule.field}"}
    node.setdefault("x-kubernetes-validations", []).append(said)


class _Dumper(yaml.SafeDumper):
    """Writes shared parts out instead of as anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the interface of PyYAML
        return True


def _yaml(definition: Schema) -> str:
    return _HEADER + yaml.dump(definition, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
