"""From the documents that were read to the deployments and routes that there are: pure.

It does what an API server does for a cluster: gives each object a uid and a time of creation, counts generations,
refuses to change what is immutable. What it refuses leaves the last good object as it was. Of a file with a broken
document, the objects that were in it before and cannot be seen now are kept too: they may be in the broken part.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from modelmora.control import Key
from modelmora.errors import InvalidManifest
from modelmora.spec import ModelDeployment, ModelRoute
from modelmora.spec.manifests import Document

R = TypeVar("R", ModelDeployment, ModelRoute)


@dataclass(frozen=True, slots=True)
class Stored(Generic[R]):
    """An object and the file that defines it."""

    resource: R
    file: Path


Store: TypeAlias = Mapping[Key, Stored[ModelDeployment]]
RouteStore: TypeAlias = Mapping[Key, Stored[ModelRoute]]


@dataclass(frozen=True, slots=True)
class Merge:
    """What there is now, and what could not be used."""

    store: Store
    routes: RouteStore = field(default_factory=dict)
    problems: tuple[InvalidManifest, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Merging(Generic[R]):
    """The state of one merge, of one kind."""

    before: Mapping[Key, Stored[R]]
    now: datetime
    new_uid: Callable[[], str]
    store: dict[Key, Stored[R]] = field(default_factory=dict)
    problems: list[InvalidManifest] = field(default_factory=list)
    created: int = 0

    def add(self, file: Path, written: R) -> None:
        """Takes what stands in that file, or says why not."""
        key = key_of(written)
        stored = self.before.get(key)
        if first := self.store.get(key):
            self.problems.append(_twice(written, first.file, file))
        elif stored is None:
            self.store[key] = Stored(self._created(written), file)
        elif error := _immutable(stored.resource, written, file):
            self.problems.append(error)
            self.store[key] = stored
        else:
            self.store[key] = Stored(_updated(stored.resource, written), file)

    def keep_what_broken_files_held(self, broken: Iterable[Path]) -> None:
        """Their last good objects go on."""
        files = set(broken)
        for key, stored in self.before.items():
            broken_itself = stored.file in files or stored.file.parent in files  # or its folder cannot be read
            if broken_itself and key not in self.store:
                self.store[key] = stored

    def _created(self, written: R) -> R:
        # Those that come together have an order too: the one that was read first is the older one.
        created_at = self.now + timedelta(microseconds=self.created)
        self.created += 1
        return _with_metadata(written, uid=self.new_uid(), generation=1, creation_timestamp=created_at)


def merge(
    before: Store,
    documents: Sequence[Document],
    *,
    now: float,
    new_uid: Callable[[], str],
    routes: RouteStore | None = None,
) -> Merge:
    """What there is after these documents were read, all documents of all files in their order; `routes`: before."""
    moment = datetime.fromtimestamp(now, UTC)
    merging = _Merging(before, moment, new_uid)
    routing = _Merging({} if routes is None else routes, moment, new_uid)
    problems = []
    for document in documents:
        if document.error is not None:
            problems.append(document.error)
        elif document.deployment is not None:
            merging.add(document.file, document.deployment)
        elif document.route is not None:
            routing.add(document.file, document.route)
    broken = [document.file for document in documents if document.error is not None]
    merging.keep_what_broken_files_held(broken)
    routing.keep_what_broken_files_held(broken)
    warnings = tuple(document.warning for document in documents if document.warning)
    return Merge(merging.store, routing.store, (*problems, *merging.problems, *routing.problems), warnings)


def key_of(of: ModelDeployment | ModelRoute) -> Key:
    """Its identity as an object."""
    return Key(of.metadata.namespace, of.metadata.name)


def _updated(stored: R, written: R) -> R:
    known = stored.metadata
    generation = known.generation + (0 if written.spec == stored.spec else 1)
    updated = _with_metadata(written, uid=known.uid, generation=generation, creation_timestamp=known.creation_timestamp)
    return stored if updated == stored else updated


def _with_metadata(written: R, *, uid: str, generation: int, creation_timestamp: datetime | None) -> R:
    metadata = written.metadata.model_copy(
        update={
            "uid": uid,
            "generation": generation,
            "creation_timestamp": creation_timestamp,
            "deletion_timestamp": None,
            "resource_version": "",
        }
    )
    return written.model_copy(update={"metadata": metadata})


def _immutable(
    stored: ModelDeployment | ModelRoute, written: ModelDeployment | ModelRoute, file: Path
) -> InvalidManifest | None:
    if not isinstance(stored, ModelDeployment) or not isinstance(written, ModelDeployment):
        return None  # all of a route may be edited
    was = {"spec.model.id": stored.model_id, "spec.model.version": stored.version}
    wants = {"spec.model.id": written.model_id, "spec.model.version": written.version}
    changed = next((name for name in was if was[name] != wants[name]), None)
    if changed is None:
        return None
    return InvalidManifest(
        f"{file}: {changed} of {stored.metadata.name} is immutable: it is {was[changed]!r}, the file now says "
        f"{wants[changed]!r}",
        model_id=stored.model_id,
        field=changed,
        file=str(file),
        remedy="give the new model or version a deployment of its own, with another metadata.name",
    )


def _twice(written: ModelDeployment | ModelRoute, first: Path, second: Path) -> InvalidManifest:
    where = f"{first} and {second}" if first != second else f"two documents of {first}"
    return InvalidManifest(
        f"{written.kind} {key_of(written)} is defined by {where}; the first one counts",
        model_id=written.model_id if isinstance(written, ModelDeployment) else written.spec.model_id,
        field="metadata.name",
        file=str(second),
        remedy="delete one of them, or give it another metadata.name",
    )
