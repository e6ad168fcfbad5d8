"""From the documents that were read to the deployments that there are: pure.

It does what an API server does for a cluster: gives each object a uid and a time of creation, counts generations,
refuses to change what is immutable. What it refuses leaves the last good object as it was. Of a file with a broken
document, the objects that were in it before and cannot be seen now are kept too: they may be in the broken part.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from modelmora.control import Key
from modelmora.errors import InvalidManifest
from modelmora.spec import ModelDeployment
from modelmora.spec.manifests import Document


@dataclass(frozen=True, slots=True)
class Stored:
    """A deployment and the file that defines it."""

    deployment: ModelDeployment
    file: Path


Store = Mapping[Key, Stored]


@dataclass(frozen=True, slots=True)
class Merge:
    """What there is now, and what could not be used."""

    store: Store
    problems: tuple[InvalidManifest, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Merging:
    """The state of one merge."""

    before: Store
    now: datetime
    new_uid: Callable[[], str]
    store: dict[Key, Stored] = field(default_factory=dict)
    problems: list[InvalidManifest] = field(default_factory=list)
    created: int = 0

    def add(self, document: Document, written: ModelDeployment) -> None:
        """Takes a document, or says why not."""
        key = key_of(written)
        stored = self.before.get(key)
        if first := self.store.get(key):
            self.problems.append(_twice(written, first.file, document.file))
        elif stored is None:
            self.store[key] = Stored(self._created(written), document.file)
        elif error := _immutable(stored.deployment, written, document.file):
            self.problems.append(error)
            self.store[key] = stored
        else:
            self.store[key] = Stored(_updated(stored.deployment, written), document.file)

    def keep_what_broken_files_held(self, broken: Iterable[Path]) -> None:
        """Their last good objects go on."""
        files = set(broken)
        for key, stored in self.before.items():
            broken_itself = stored.file in files or stored.file.parent in files  # or its folder cannot be read
            if broken_itself and key not in self.store:
                self.store[key] = stored

    def _created(self, written: ModelDeployment) -> ModelDeployment:
        # Those that come together have an order too: the one that was read first is the older one.
        created_at = self.now + timedelta(microseconds=self.created)
        self.created += 1
        return _with_metadata(written, uid=self.new_uid(), generation=1, creation_timestamp=created_at)


def merge(before: Store, documents: Sequence[Document], *, now: float, new_uid: Callable[[], str]) -> Merge:
    """The deployments after these documents were read: all documents of all files, in their order."""
    merging = _Merging(before, datetime.fromtimestamp(now, UTC), new_uid)
    for document in documents:
        if document.error is not None:
            merging.problems.append(document.error)
        elif document.deployment is not None:
            merging.add(document, document.deployment)
    merging.keep_what_broken_files_held(document.file for document in documents if document.error is not None)
    warnings = tuple(document.warning for document in documents if document.warning)
    return Merge(merging.store, tuple(merging.problems), warnings)


def key_of(deployment: ModelDeployment) -> Key:
    """Its identity as an object."""
    return Key(deployment.metadata.namespace, deployment.metadata.name)


def _updated(stored: ModelDeployment, written: ModelDeployment) -> ModelDeployment:
    known = stored.metadata
    generation = known.generation + (0 if written.spec == stored.spec else 1)
    updated = _with_metadata(written, uid=known.uid, generation=generation, creation_timestamp=known.creation_timestamp)
    return stored if updated == stored else updated


def _with_metadata(
    written: ModelDeployment, *, uid: str, generation: int, creation_timestamp: datetime | None
) -> ModelDeployment:
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


def _immutable(stored: ModelDeployment, written: ModelDeployment, file: Path) -> InvalidManifest | None:
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


def _twice(written: ModelDeployment, first: Path, second: Path) -> InvalidManifest:
    where = f"{first} and {second}" if first != second else f"two documents of {first}"
    return InvalidManifest(
        f"{key_of(written)} is defined by {where}; the first one counts",
        model_id=written.model_id,
        field="metadata.name",
        file=str(second),
        remedy="delete one of them, or give it another metadata.name",
    )
