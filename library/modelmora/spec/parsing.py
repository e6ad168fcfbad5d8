"""From a manifest to a resource, or to one error that names every wrong field by its path.

The bounds of single fields are checked by pydantic, then the rules between fields; both end in the same list of
`Problem`s, so that a person mends a manifest in one go.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from modelmora.errors import InvalidManifest
from modelmora.spec.schema import ENGINE, ENGINES, SEMANTIC_VERSION, SOURCE_URI, SUBDOMAIN

ResourceT = TypeVar("ResourceT", bound=BaseModel)

# What an API server adds to metadata and a person gets back from `kubectl get -o yaml`.
_SERVER_METADATA = (
    "deletionGracePeriodSeconds",
    "finalizers",
    "generateName",
    "managedFields",
    "ownerReferences",
    "selfLink",
)
_MOST_SHOWN = 20
_FORMS = {
    SEMANTIC_VERSION: ("a semantic version", 'write MAJOR.MINOR.PATCH in quotes, for example version: "1.0.0"'),
    SOURCE_URI: ("the URI of a source", "start it with hf://, s3://, https://, pvc://, file:// or package://"),
    ENGINE: ("a built-in engine", f"use {', '.join(ENGINES)}, or write python:module:Class"),
    SUBDOMAIN: (
        "a name for Kubernetes",
        "use lower-case letters, digits, '-' and '.', beginning and ending with one of the first two",
    ),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a manifest."""

    field: str  # path as in YAML, for example spec.scaling.minReplicas
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


def read(
    kind: type[ResourceT], manifest: object, *, file: str, rules: Callable[[ResourceT], Iterable[Problem]]
) -> ResourceT:
    """The resource that a person wrote: unknown fields refused, no conversions, rules between fields checked.

    Raises:
        InvalidManifest: every field that is wrong, by its path.
    """
    written = _as_written(kind, _mapping(manifest, file))
    try:
        resource = kind.model_validate_json(_json(written, file), strict=True)
    except ValidationError as error:
        raise invalid(problems_of(error), manifest=written, file=file) from error
    if problems := [*_without_number(written), *_without_value(kind, written), *rules(resource)]:
        raise invalid(problems, manifest=written, file=file)
    return resource


def read_stored(kind: type[ResourceT], manifest: object) -> ResourceT:
    """The resource that was stored: unknown fields are ignored, rules between fields are not asked again.

    Raises:
        InvalidManifest: a field that is needed is missing or wrong.
    """
    stored = _mapping(manifest, "")
    try:
        return kind.model_validate(stored, extra="ignore")
    except ValidationError as error:
        raise invalid(problems_of(error), manifest=stored, file="") from error


def invalid(problems: Iterable[Problem], *, manifest: Mapping[str, Any], file: str) -> InvalidManifest:
    """The error for these problems."""
    listed = list(problems)
    name, model_id = _names(manifest)
    shown = "; ".join(str(problem) for problem in listed[:_MOST_SHOWN])
    more = f"; and {len(listed) - _MOST_SHOWN} more" if len(listed) > _MOST_SHOWN else ""
    remedies = list(dict.fromkeys(problem.remedy for problem in listed if problem.remedy))
    return InvalidManifest(
        f"{file + ': ' if file else ''}{name} is not valid: {shown}{more}",
        model_id=model_id,
        field=", ".join(problem.field for problem in listed[:_MOST_SHOWN] if problem.field),
        remedy="; ".join(remedies[:3]) or "correct these fields and apply the manifest again",
        file=file,
    )


def problems_of(error: ValidationError) -> list[Problem]:
    """What pydantic found, in the words of a manifest."""
    return [_problem(details) for details in error.errors(include_url=False)]


def _mapping(manifest: object, file: str) -> dict[str, Any]:
    if not isinstance(manifest, Mapping):
        where = f"{file}: " if file else ""
        raise InvalidManifest(
            f"{where}a manifest is a mapping with apiVersion, kind, metadata and spec, not {_described(manifest)}",
            file=file,
            remedy="start it with 'apiVersion: modelmora.io/v1alpha1'",
        )
    return cast("dict[str, Any]", dict(manifest))


def _as_written(kind: type[BaseModel], manifest: dict[str, Any]) -> dict[str, Any]:
    """Without what a person does not write, and without the fields that an empty value leaves at their defaults."""
    written = _without_nulls(kind, {name: value for name, value in manifest.items() if name != "status"})
    metadata = written.get("metadata")
    if isinstance(metadata, Mapping):
        kept = {name: value for name, value in metadata.items() if name not in _SERVER_METADATA and value is not None}
        written["metadata"] = kept
    return written


def _without_nulls(kind: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Like an API server: no value is the default where there is one; what is inside free-form objects stays."""
    fields = {field.alias or name: field for name, field in kind.model_fields.items()}
    return {
        name: _cleaned(_part_of(fields[name].annotation), value) if name in fields else value
        for name, value in values.items()
        if value is not None or name not in fields or not _has_default(fields[name])
    }


def _cleaned(part: type[BaseModel] | None, value: object) -> object:
    if part is not None and isinstance(value, Mapping):
        return _without_nulls(part, value)
    if part is not None and isinstance(value, list):
        return [_cleaned(part, item) for item in value]
    return value


def _has_default(field: FieldInfo) -> bool:
    """Whether the schema of the CustomResourceDefinition has one: of none and of nothing it has not."""
    default = field.get_default(call_default_factory=True, validated_data={})
    return not field.is_required() and default not in (None, "", (), {})


def _without_value(kind: type[BaseModel], values: Mapping[str, Any], at: str = "") -> Iterator[Problem]:
    """A problem for each field that could be absent, but is there without a value."""
    fields = {field.alias or name: field for name, field in kind.model_fields.items()}
    for name, value in values.items():
        path = f"{at}.{name}" if at else name
        part = _part_of(fields[name].annotation) if name in fields else None
        if value is None:
            yield Problem(path, "has no value", "give it a value or remove the line")
        elif part is not None:
            for place, item in _items(path, value):
                yield from _without_value(part, item, place)


def _items(path: str, value: object) -> list[tuple[str, Mapping[str, Any]]]:
    """The object itself, or the objects in a list, each with its path."""
    if isinstance(value, list):
        return [(f"{path}[{index}]", item) for index, item in enumerate(value) if isinstance(item, Mapping)]
    return [(path, value)] if isinstance(value, Mapping) else []


def _part_of(annotation: object) -> type[BaseModel] | None:
    """The model in `Model`, `Model | None` or `tuple[Model, …]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((part for argument in get_args(annotation) if (part := _part_of(argument))), None)


def _json(manifest: dict[str, Any], file: str) -> str:
    try:
        return json.dumps(manifest)
    except (TypeError, ValueError) as error:
        raise invalid([Problem("", f"it holds what JSON cannot: {error}")], manifest=manifest, file=file) from error


def _without_number(value: object, *path: int | str) -> Iterator[Problem]:
    """A problem for each NaN and infinity: an API server refuses them, and NaN would be a change at every look."""
    if isinstance(value, float) and not math.isfinite(value):
        yield Problem(_path(list(path)), "must be a finite number", "give a number that JSON can hold, or a text")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _without_number(item, *path, str(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _without_number(item, *path, index)


def _names(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """How to call it in a sentence, and its model id as far as known."""
    metadata, spec = manifest.get("metadata"), manifest.get("spec")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    model = spec.get("model") if isinstance(spec, Mapping) else None
    model_id = model.get("id") if isinstance(model, Mapping) else None
    kind = manifest.get("kind")
    called = f"{kind if isinstance(kind, str) else 'the manifest'} {name if isinstance(name, str) else ''}".rstrip()
    return called, next((text for text in (model_id, name) if isinstance(text, str)), "")


def _problem(details: ErrorDetails) -> Problem:  # noqa: PLR0911 - one line for each kind of mistake
    path = [part for part in details["loc"] if part != "[key]"]
    field = _path(path)
    given = details["input"]
    match details["type"]:
        case "extra_forbidden":
            return Problem(field, "unknown field", "remove unknown fields or correct their spelling")
        case "missing":
            return Problem(field, "missing")
        case "string_type":
            return Problem(field, f"must be a text, not {_described(given)}", _quote_hint(field, given))
        case "value_error":
            return Problem(field, details["msg"].removeprefix("Value error, "))
        case "string_pattern_mismatch":
            form, remedy = _form(str(details.get("ctx", {}).get("pattern", "")))
            return Problem(field, f"{_shown(given)} is not {form}", remedy)
        case "literal_error" | "enum":
            expected = details.get("ctx", {}).get("expected", "")
            return Problem(field, f"{_shown(given)} is not one of {expected}", _quote_hint(field, given))
        case _:
            message = details["msg"].replace("Input should be", "must be")
            return Problem(field, f"{message[:1].lower()}{message[1:]}, not {_shown(given)}")


def _form(pattern: str) -> tuple[str, str]:
    """What a text had to look like, and the remedy."""
    return _FORMS.get(pattern, (f"of the form {pattern}", ""))


def _path(parts: list[int | str]) -> str:
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z0-9_]+", part):
            path += f".{part}" if path else part
        else:
            path += f"[{part[:80]!r}]"
    return path


def _quote_hint(field: str, given: object) -> str:
    """YAML reads 1.0 as a number, and yes, no, on and off as booleans."""
    if isinstance(given, bool | int | float):
        return f"YAML read {field} as {_described(given)}: quote it if a text is meant"
    return ""


def _described(value: object) -> str:  # noqa: PLR0911 - one line for each type
    match value:
        case None:
            return "nothing"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {_shown(value)}"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "a mapping"
        case _:
            return f"a {type(value).__name__}"


def _shown(value: object) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else f"{value[:77]}…")  # noqa: PLR2004 - what fits a line
    return _described(value)
