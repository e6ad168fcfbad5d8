"""How a model is named, how versions are ordered, and how urgent a request can be."""

import re
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Self

from modelmora.errors import InvalidRequest
from modelmora.spec.schema import MAX_MODEL_ID, MODEL_ID, SEMANTIC_VERSION

# The last segment of a path names the action: an id that ends in one could not be addressed over REST.
RESERVED_SEGMENTS = ("load", "unload", "warmup", "async", "versions", "download")


class Task(StrEnum):
    """What a model does. Other names are possible with an engine of one's own."""

    TXT2EMBED = "txt2embed"
    IMG2EMBED = "img2embed"
    TXT2IMG = "txt2img"
    IMG2TXT = "img2txt"
    TXT2TXT = "txt2txt"


class Priority(IntEnum):
    """Lower numbers go first."""

    CRITICAL = 1
    HIGH = 2
    NORMAL = 3
    LOW = 4

    @classmethod
    def parse(cls, name: str) -> Self:
        """The priority of that name, in any case, or of that number; MEDIUM is another name of NORMAL.

        Raises:
            InvalidRequest: there is none.
        """
        word = name.strip().upper()
        try:
            return cls(int(word)) if word.isdecimal() else cls["NORMAL" if word == "MEDIUM" else word]
        except (KeyError, ValueError):
            raise InvalidRequest(
                f"priority {name[:40]!r} is unknown",
                field="priority",
                remedy="use CRITICAL, HIGH, NORMAL or LOW",
            ) from None


def model_id_problem(model_id: str) -> str | None:
    """What is wrong with an id, as the end of a sentence; None if it is good."""
    if not model_id:
        return "is empty"
    if len(model_id) > MAX_MODEL_ID:
        return f"has {len(model_id)} characters; at most {MAX_MODEL_ID} are allowed"
    if not re.fullmatch(MODEL_ID, model_id):
        return "is not made of segments of letters, digits, '.', '_' and '-', joined by '/', without '..'"
    last = model_id.rpartition("/")[2]
    if last in RESERVED_SEGMENTS:
        return f"ends in {last!r}, which names an action of the REST interface"
    return None


@dataclass(frozen=True, slots=True)
class ModelRef:
    """What a client asks for: a model, or one version of it."""

    model_id: str
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "id" or "id@version".

        Raises:
            InvalidRequest: not an id, or a version that is not semantic.
        """
        model_id, at, version = text.partition("@")
        if problem := model_id_problem(model_id):
            raise InvalidRequest(
                f"the model id {_shown(model_id)} {problem}",
                field="modelId",
                remedy="ask GET /api/v1/models for the ids that there are",
            )
        if at and not is_version(version):
            raise InvalidRequest(
                f"the version {_shown(version)} of model {_shown(model_id)} is not a semantic version",
                model_id=model_id,
                field="modelId",
                remedy="write id@MAJOR.MINOR.PATCH, for example id@1.0.0, or the id alone",
            )
        return cls(model_id, version if at else None)

    def __str__(self) -> str:
        return f"{self.model_id}@{self.version}" if self.version else self.model_id


def is_version(text: str) -> bool:
    """Whether this is a semantic version (semver.org)."""
    return len(text) <= 64 and re.fullmatch(SEMANTIC_VERSION, text) is not None  # noqa: PLR2004 - as in the schema


VersionOrder = tuple[int, int, int, tuple[tuple[int, int, str], ...]]


def version_order(version: str) -> VersionOrder:
    """A sort key: higher versions last, a pre-release before its release, build metadata ignored (semver.org, 11).

    Raises:
        ValueError: not a semantic version.
    """
    if not is_version(version):
        raise ValueError(f"{version!r} is not a semantic version")
    core, _, pre_release = version.partition("+")[0].partition("-")
    major, minor, patch = (int(number) for number in core.split("."))
    if not pre_release:
        return major, minor, patch, ((2, 0, ""),)  # after every identifier of a pre-release
    return major, minor, patch, tuple(_identifier_order(part) for part in pre_release.split("."))


def _identifier_order(identifier: str) -> tuple[int, int, str]:
    return (0, int(identifier), "") if identifier.isdigit() else (1, 0, identifier)


def _shown(text: str) -> str:
    """Quoted, and cut where a caller sent far too much."""
    return repr(text if len(text) <= MAX_MODEL_ID else f"{text[:40]}…")
