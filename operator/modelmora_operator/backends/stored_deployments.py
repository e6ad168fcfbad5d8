"""ModelDeployments as an API server stores them: those that can be read, and those that cannot any more.

A release of ours may refuse what an older one accepted. Such an object is told so in its status, its workers run on,
and nothing is decided about it. A status that cannot be read is no loss: it is derived anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from modelmora.errors import InvalidManifest
from modelmora.spec import ModelDeployment

INVALID_SPEC: Final = "InvalidSpec"
_LONGEST: Final = 32_000


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An object that this release does not understand."""

    manifest: Mapping[str, Any]
    words: str


def read(manifest: Mapping[str, Any]) -> ModelDeployment | Unreadable:
    """What the object says."""
    try:
        return ModelDeployment.stored(manifest)
    except InvalidManifest as error:
        without_status = {name: value for name, value in manifest.items() if name != "status"}
        try:
            return ModelDeployment.stored(without_status)
        except InvalidManifest:
            return Unreadable(manifest, f"{error.message}: {error.context.remedy}"[:_LONGEST])


def told(unreadable: Unreadable) -> bool:
    """Its status says already what is wrong, of this generation."""
    return _conditions(unreadable) == _conditions_of(unreadable.manifest)


def status_of(unreadable: Unreadable, now: float) -> dict[str, Any]:
    """The whole status with only its conditions new: what else stands there was true when it was written."""
    before = unreadable.manifest.get("status") or {}
    generation = unreadable.manifest["metadata"].get("generation", 0)
    return {**before, **_minimal(unreadable, now), "observedGeneration": generation}


def minimal_status_of(unreadable: Unreadable, now: float) -> dict[str, Any]:
    """For an API server that does not take the rest of it any more."""
    return _minimal(unreadable, now)


def _minimal(unreadable: Unreadable, now: float) -> dict[str, Any]:
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"conditions": [{**one, "lastTransitionTime": moment} for one in _conditions(unreadable)]}


def _conditions(unreadable: Unreadable) -> list[dict[str, Any]]:
    generation = unreadable.manifest["metadata"].get("generation", 0)
    said = {"reason": INVALID_SPEC, "message": unreadable.words, "observedGeneration": generation}
    return [{"type": "Ready", "status": "False", **said}, {"type": "Stalled", "status": "True", **said}]


def _conditions_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    conditions = (manifest.get("status") or {}).get("conditions") or []
    fields = ("type", "status", "reason", "message", "observedGeneration")
    return [{name: one[name] for name in fields if name in one} for one in conditions]
