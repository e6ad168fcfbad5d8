"""Which of two states of an object is newer: by resourceVersion, which orders all of one kind. Pure."""

from collections.abc import Mapping
from typing import Any


def version_of(item: Mapping[str, Any]) -> int:
    """Of one state of an object; of the same kind, larger is newer."""
    return number_of(str(item["metadata"].get("resourceVersion") or ""))


def number_of(resource_version: str) -> int:
    """Of an object, or of a list; 0: it is none, or none that can be compared."""
    return int(resource_version) if resource_version.isdecimal() else 0
