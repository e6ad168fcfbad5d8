"""Rules between fields, each told twice: as CEL for the API server, and as Python for everything else.

Both stand side by side in one table, so that a manifest that `validate` takes is one that a cluster takes. A rule
without CEL is one that the schema of the CustomResourceDefinition states in its own way.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from modelmora.spec.parsing import Problem

ResourceT = TypeVar("ResourceT")


@dataclass(frozen=True, slots=True)
class Rule(Generic[ResourceT]):
    """What must hold between fields of one resource."""

    at: str  # the object of the schema that CEL calls `self`; "" = the resource
    field: str  # the field to blame, below `at`; "" = `at` itself
    message: str
    remedy: str
    broken: Callable[[ResourceT], bool | Iterable[str]]  # True, or the paths of the items that break it
    cel: str = ""


@dataclass(frozen=True, slots=True)
class ChangeRule(Generic[ResourceT]):
    """What must hold between the present and the next state of one resource."""

    at: str
    field: str
    message: str
    remedy: str
    broken: Callable[[ResourceT, ResourceT], bool]
    cel: str


def broken_rules(rules: Iterable[Rule[ResourceT]], resource: ResourceT) -> Iterator[Problem]:
    """A problem for each rule that the resource breaks."""
    for rule in rules:
        found = rule.broken(resource)
        paths = ([_joined(rule.at, rule.field)] if found else []) if isinstance(found, bool) else found
        yield from (Problem(path, rule.message, rule.remedy) for path in paths)


def broken_change_rules(rules: Iterable[ChangeRule[ResourceT]], old: ResourceT, new: ResourceT) -> Iterator[Problem]:
    """A problem for each rule that the step from old to new breaks."""
    for rule in rules:
        if rule.broken(old, new):
            yield Problem(_joined(rule.at, rule.field), rule.message, rule.remedy)


def repeated(path: str, key: str, names: Iterable[object]) -> Iterator[str]:
    """The path of each item whose name was there before."""
    seen: Counter[object] = Counter()
    for index, name in enumerate(names):
        if seen[name]:
            yield f"{path}[{index}].{key}"
        seen[name] += 1


def _joined(at: str, field: str) -> str:
    return ".".join(part for part in (at, field) if part)
