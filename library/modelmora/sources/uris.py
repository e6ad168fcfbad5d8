"""The URIs of sources: what they look like, and what each part of them means. No I/O."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, TypeAlias
from urllib.parse import unquote

from modelmora.errors import InvalidSource

FIELD: Final = "spec.model.source.uri"
_USABLE_NOW: Final = "use hf://org/name, file:///folder, pvc://claim/folder or package://package/folder"
_LATER: Final = ("s3", "https")
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_HUB_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_CLAIM: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_CLAIM: Final = 253
_PACKAGE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


@dataclass(frozen=True, slots=True)
class PackageSource:
    """Files inside an installed Python package; `path` is relative to the package's folder."""

    package: str
    path: str

    def __str__(self) -> str:
        return f"package://{self.package}/{self.path}"


@dataclass(frozen=True, slots=True)
class FileSource:
    """A folder of this machine; `path` is absolute."""

    path: str

    def __str__(self) -> str:
        return f"file://{self.path}"


@dataclass(frozen=True, slots=True)
class ClaimSource:
    """A folder on a PersistentVolumeClaim of the deployment's namespace; `path` is relative to the volume."""

    claim: str
    path: str

    def __str__(self) -> str:
        return f"pvc://{self.claim}/{self.path}"


@dataclass(frozen=True, slots=True)
class HubSource:
    """A model of the Hugging Face Hub; an empty revision is the default branch."""

    name: str
    revision: str = ""

    def __str__(self) -> str:
        return f"hf://{self.name}" + (f"@{self.revision}" if self.revision else "")


Source: TypeAlias = PackageSource | FileSource | ClaimSource | HubSource


def parse(uri: str) -> Source:
    """The source that a URI names.

    Raises:
        InvalidSource: it cannot be understood, or its scheme cannot be fetched in this release.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or not scheme:
        raise _invalid(uri, "is not a URI", _USABLE_NOW)
    match scheme.lower():
        case "package":
            return _package(uri, unquote(rest))
        case "file":
            return _file(uri, unquote(rest))
        case "pvc":
            return _claim(uri, unquote(rest))
        case "hf":
            return _hub(uri, rest)
        case later if later in _LATER:
            raise _invalid(uri, f"has the scheme {later}://, which this release cannot fetch", _USABLE_NOW)
    raise _invalid(uri, f"has the unknown scheme {scheme[:20]}://", _USABLE_NOW)


def default_model_id(source: Source) -> str:
    """The model id of a source that nobody has named: org/name of the Hub, the package, the last folder."""
    match source:
        case HubSource(name=name):
            return name
        case PackageSource(package=package):
            return package.rpartition(".")[2].replace("_", "-")
        case FileSource(path=path):
            return _as_id(PurePosixPath(path).name)
        case ClaimSource(claim=claim, path=path):
            return _as_id(PurePosixPath(path).name or claim)


def _as_id(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "model"


def _package(uri: str, rest: str) -> PackageSource:
    package, _, path = rest.partition("/")
    if not _PACKAGE.fullmatch(package):
        raise _invalid(uri, f"names no Python package: {package[:80]!r}", "write package://package/folder")
    return PackageSource(package, _relative(uri, path))


def _file(uri: str, rest: str) -> FileSource:
    path = rest.removeprefix("localhost") if rest.startswith("localhost/") else rest
    if not path.startswith("/"):
        raise _invalid(uri, "has no absolute path", "write three slashes, for example file:///srv/models/minilm")
    return FileSource("/" + _relative(uri, path.strip("/")))


def _claim(uri: str, rest: str) -> ClaimSource:
    claim, _, path = rest.partition("/")
    if not _CLAIM.fullmatch(claim) or len(claim) > _LONGEST_CLAIM:
        raise _invalid(uri, f"names no PersistentVolumeClaim: {claim[:80]!r}", "write pvc://claim/folder")
    return ClaimSource(claim, _relative(uri, path.strip("/")))


def _hub(uri: str, rest: str) -> HubSource:
    name, at, revision = rest.partition("@")
    if not _HUB_NAME.fullmatch(name) or ".." in name:
        raise _invalid(
            uri, f"names no model of the Hub: {name[:80]!r}", "write hf://org/name or hf://org/name@revision"
        )
    if at and (not _HUB_REVISION.fullmatch(revision) or ".." in revision):
        raise _invalid(uri, f"has the revision {revision[:80]!r}", "write a branch, a tag or a commit after the @")
    return HubSource(name, revision)


def _relative(uri: str, path: str) -> str:
    if ".." in path.split("/") or "\0" in path:
        raise _invalid(uri, "leaves its folder", "write the path without '..'")
    return str(PurePosixPath(path)) if path.strip("/") else ""


def _invalid(uri: str, problem: str, remedy: str) -> InvalidSource:
    return InvalidSource(f"the source {uri[:200]!r} {problem}", field=FIELD, remedy=remedy)
