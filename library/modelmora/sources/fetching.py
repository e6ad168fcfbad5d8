"""Brings the files of a source to this machine, and says exactly what they are."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from modelmora.errors import InvalidSource, SourceNotFound
from modelmora.sources import hub
from modelmora.sources.integrity import Pins, hash_folder, verify
from modelmora.sources.uris import FIELD, ClaimSource, FileSource, HubSource, PackageSource, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """How to fetch. Files of remote sources and what is known of files live in `cache_dir`."""

    cache_dir: Path
    volumes_dir: Path | None = None  # where PersistentVolumeClaims are mounted, by name; None: nowhere, no pod
    model_id: str = ""
    endpoint: str = ""  # of the Hub or the object store; empty = the public one
    token: str = field(default="", repr=False)  # empty = what the Hub's own library finds
    pins: Pins = field(default_factory=Pins)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The files of a model on this machine; size in bytes."""

    path: Path
    revision: str  # the source's own name of what was fetched: a commit, the version of a package
    digest: str
    sha256: Mapping[str, str]  # by path in the folder
    bytes: int

    @property
    def files(self) -> int:
        return len(self.sha256)


def fetch(source: Source, options: FetchOptions) -> Fetched:
    """Blocks until every file of the source is here, hashed and verified.

    Raises:
        InvalidSource: the source cannot be what it says.
        SourceNotFound: nothing is there.
        FetchFailed: it could not be brought here, for now.
        ChecksumMismatch: a file is not the pinned one.
        MissingDependency: huggingface_hub is not installed.
    """
    folder, revision = _locate(source, options)
    manifest = hash_folder(folder, cache_dir=options.cache_dir, now=time.time())
    verify(manifest, options.pins, model_id=options.model_id)
    return Fetched(folder, revision, manifest.digest, manifest.sha256, manifest.bytes)


def _locate(source: Source, options: FetchOptions) -> tuple[Path, str]:
    match source:
        case PackageSource():
            return _package_folder(source, options.model_id), _package_version(source.package)
        case FileSource(path=path):
            return _existing(Path(path), source, options.model_id, _file_remedy(options)), ""
        case ClaimSource():
            return _claim_folder(source, options), ""
        case HubSource():
            request = hub.Request(source.name, source.revision, options.endpoint, options.token, options.model_id)
            return hub.download(request, cache_dir=options.cache_dir / "hub")


def _package_folder(source: PackageSource, model_id: str) -> Path:
    """Found by its spec: nothing of the package is executed, nor of the packages around it."""
    top, *inside = source.package.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    places = [Path(place, *inside) for place in (spec.submodule_search_locations or ())] if spec else []
    packages = [place for place in places if place.is_dir()]
    if not packages:
        raise SourceNotFound(
            f"the package {source.package} of model {model_id} is not installed, or has no folder",
            model_id=model_id,
            field=FIELD,
            remedy=f"install it: pip install {top.replace('_', '-')}",
        )
    # The parts of a namespace package lie in several places.
    root = next((place for place in packages if (place / source.path).exists()), packages[0]).resolve()
    folder = (root / source.path).resolve()
    if not folder.is_relative_to(root):
        raise InvalidSource(
            f"{source} leads out of its package to {folder}",
            model_id=model_id,
            field=FIELD,
            remedy="name a folder inside the package",
        )
    return _existing(folder, source, model_id, "name an existing folder of the package")


def _claim_folder(source: ClaimSource, options: FetchOptions) -> Path:
    if options.volumes_dir is None:
        raise InvalidSource(
            f"the source {source} of model {options.model_id} is a volume of a cluster, and this is none",
            model_id=options.model_id,
            field=FIELD,
            remedy="name the folder that holds the files on this machine: file:///folder",
        )
    folder = options.volumes_dir / source.claim / source.path
    remedy = f"name an existing folder of the claim {source.claim}, or put the files of the model there"
    return _existing(folder, source, options.model_id, remedy)


def _file_remedy(options: FetchOptions) -> str:
    if options.volumes_dir is None:
        return "name an existing folder with the files of the model"
    return (
        "name a folder of the worker's image, mount the volume that holds it (spec.podTemplate), "
        "or use pvc://claim/folder"
    )


def _package_version(package: str) -> str:
    top = package.partition(".")[0]
    try:
        return version(top)  # as most are named; asking for all distributions takes 50 ms
    except PackageNotFoundError:
        names = packages_distributions().get(top, [])
    return version(names[0]) if names else ""


def _existing(folder: Path, source: Source, model_id: str, remedy: str) -> Path:
    if folder.is_dir():
        return folder
    raise SourceNotFound(
        f"the source {source} of model {model_id} {_problem(folder)}: {folder}",
        model_id=model_id,
        field=FIELD,
        file=str(folder),
        remedy=remedy,
    )


def _problem(folder: Path) -> str:
    try:
        return "is a file, not a folder" if folder.exists() else "does not exist"
    except OSError as error:  # a folder on the way may not be entered
        return f"cannot be reached ({error.strerror})"
