"""The reference of our resources as Markdown: one table row for each field, from the same schema as the definitions."""

from collections.abc import Iterator
from typing import Any

from modelmora.spec.crd import Schema, definitions

_INTRODUCTION = """\
<!-- Generated from modelmora.spec by tools/generate_crds.py; do not edit. -->
# {kind}

{description}

`apiVersion: modelmora.io/v1alpha1`, short name `{short}`. `*`: must be set. Unknown fields are refused.
"""
_PAGES = {"ModelDeployment": "model-deployment.md", "ModelRoute": "model-route.md"}


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    return {_PAGES[definition["spec"]["names"]["kind"]]: _page(definition) for definition in definitions()}


def _page(definition: Schema) -> str:
    names = definition["spec"]["names"]
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    introduction = _INTRODUCTION.format(
        kind=names["kind"], description=schema["description"], short=names["shortNames"][0]
    )
    tables = [_table(part, schema["properties"][part]) for part in ("spec", "status")]
    return "\n".join([introduction, *tables, _rules(schema)])


def _table(name: str, schema: Schema) -> str:
    rows = [f"| `{path}`{star} | {kind} | {default} | {text} |" for path, star, kind, default, text in _rows(schema)]
    head = ["| field | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {name}", "", *head, *rows, ""])


def _rows(schema: Schema, prefix: str = "") -> Iterator[tuple[str, str, str, str, str]]:
    for name, field in schema.get("properties", {}).items():
        star = "\\*" if name in schema.get("required", ()) else ""
        below = field.get("items", field)
        nested = "properties" in below
        default = "" if nested or "default" not in field else f"`{field['default']}`"
        path = f"{prefix}{name}{'[]' if 'items' in field and nested else ''}"
        yield path, star, _kind(field), default, _cell(field.get("description", ""))
        yield from _rows(below, f"{path}.")


def _kind(field: Schema) -> str:
    if "enum" in field:
        return " · ".join(f"`{value}`" for value in field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if field.get("type") == "array":
        return f"list of {_kind(field['items'])}"
    if isinstance(field.get("additionalProperties"), dict):
        return f"map to {_kind(field['additionalProperties'])}"
    return f"{field.get('format') if field.get('format') == 'date-time' else field['type']}{_bounds(field)}"


def _bounds(field: Schema) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    match low, high:
        case None, None:
            return ""
        case _, int() if high < 2**31 - 1:
            return f" {low}–{high}"
        case _:
            return f" ≥ {low}"


def _rules(schema: Schema) -> str:
    rules = [f"- `{path}` {message}" for path, message in _messages(schema)]
    return "\n".join(["## Rules between fields", "", *rules, ""])


def _messages(schema: Schema, prefix: str = "") -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        first, _, rest = rule["message"].partition(" ")
        of_itself = schema.get("type") != "object"  # then its message begins with no field
        path = prefix if of_itself else f"{prefix}{rule.get('fieldPath', '.' + first)}"
        yield path.lstrip("."), rule["message"] if of_itself else rest
    for name, field in schema.get("properties", {}).items():
        yield from _messages(field, f"{prefix}.{name}")
        yield from _messages(field.get("items", {}), f"{prefix}.{name}[]")


def _cell(text: Any) -> str:  # noqa: ANN401 - a description
    return str(text).replace("|", "\\|").replace("\n", " ")
