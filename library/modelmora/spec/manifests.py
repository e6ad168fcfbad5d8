"""Manifests in files: YAML with one or several documents each, or folders of them.

Nothing here fails as a whole: each document comes back as what it is or with its error, so that one broken file hides
no other.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelmora.errors import InvalidManifest
from modelmora.spec.deployment import ModelDeployment
from modelmora.spec.route import ModelRoute
from modelmora.spec.schema import API_GROUP
from modelmora.spec.yaml_text import YamlDocument, documents

SUFFIXES = (".yaml", ".yml")
_MAX_FILE_BYTES = 8 * 1024 * 1024
_KINDS: dict[str, type[ModelDeployment] | type[ModelRoute]] = {
    "ModelDeployment": ModelDeployment,
    "ModelRoute": ModelRoute,
}


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file: a resource, or an error, or neither where its kind is not ours."""

    file: Path
    number: int = 1  # of the document in its file
    line: int = 1  # where it starts
    resource: ModelDeployment | ModelRoute | None = None
    error: InvalidManifest | None = None
    warning: str = ""

    @property
    def deployment(self) -> ModelDeployment | None:
        """The resource, if it is a ModelDeployment."""
        return self.resource if isinstance(self.resource, ModelDeployment) else None

    @property
    def route(self) -> ModelRoute | None:
        """The resource, if it is a ModelRoute."""
        return self.resource if isinstance(self.resource, ModelRoute) else None


def load(paths: Iterable[Path], variables: Mapping[str, str] | None = None) -> list[Document]:
    """What stands in these files and folders, in the order given; `variables` fill in ${NAME} and ${NAME:-default}."""
    return [document for path in paths for document in _load_path(path, variables if variables is not None else {})]


def _load_path(path: Path, variables: Mapping[str, str]) -> list[Document]:
    try:
        files = files_of(path)
    except OSError as error:  # a folder that was just taken away, or that this user may not list
        remedy = "give a folder that exists and that this user may list"
        message = f"{path} cannot be listed: {error.strerror}"
        return [Document(path, error=InvalidManifest(message, file=str(path), remedy=remedy))]
    return [document for file in files for document in load_file(file, variables)]


def files_of(path: Path) -> list[Path]:
    """The file itself, or the YAML files of a folder by name, hidden ones and those of folders below left out."""
    if not path.is_dir():
        return [path]
    inside = (file for file in path.iterdir() if file.suffix in SUFFIXES and not file.name.startswith("."))
    return sorted(file for file in inside if file.is_file())


def load_file(file: Path, variables: Mapping[str, str]) -> list[Document]:
    """The documents of one file; a file that cannot be read is one document with an error."""
    try:
        return load_text(_text_of(file), file, variables)
    except InvalidManifest as error:
        return [Document(file, error=error)]


def load_text(text: str, file: Path, variables: Mapping[str, str]) -> list[Document]:
    """The documents of a text that stands in `file`; one without any text is a file that somebody is about to write."""
    if not text.strip():
        empty = InvalidManifest(
            f"{file} is empty", file=str(file), remedy="write a ModelDeployment into it, or delete the file"
        )
        return [Document(file, error=empty)]
    return [resource for document in documents(text, variables) for resource in _resources(file, document)]


def _text_of(file: Path) -> str:
    """The text of a file.

    Raises:
        InvalidManifest: there is none, it cannot be read, it is far too large, or it is not UTF-8.
    """
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            remedy = f"split it; a file may have {_MAX_FILE_BYTES // 1024**2} MiB"
            raise InvalidManifest(f"{file} has {file.stat().st_size} bytes", file=str(file), remedy=remedy)
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{file} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}"
        raise InvalidManifest(message, file=str(file), remedy="save it as UTF-8") from error
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}"
        raise InvalidManifest(message, file=str(file), remedy="give the path of a YAML file or a folder") from error


def _resources(file: Path, document: YamlDocument) -> Iterator[Document]:
    """The document, or the items of a List, such as `kubectl get -o yaml` writes."""
    if document.problem:
        yield Document(file, document.number, document.line, error=_broken(file, document))
        return
    for value in _items(document.value):
        yield _resource(file, document, value)


def _items(value: object) -> Sequence[object]:
    if isinstance(value, Mapping) and value.get("kind") == "List" and isinstance(value.get("items"), list):
        return [item for item in value["items"] if item is not None]
    return [value]


def _resource(file: Path, document: YamlDocument, value: object) -> Document:
    place = f"{file}, line {document.line}"
    group, kind = _kind_of(value)
    if kind and group != API_GROUP and (group or kind not in _KINDS):
        warning = f"{place}: {kind} of {group or 'the core API'} is skipped; ModelMora reads {' and '.join(_KINDS)}"
        return Document(file, document.number, document.line, warning=warning)
    try:
        parsed = _parsed(kind, value, str(file))
        return Document(file, document.number, document.line, resource=parsed)
    except InvalidManifest as error:
        return Document(file, document.number, document.line, error=error)


def _parsed(kind: str, value: object, file: str) -> ModelDeployment | ModelRoute:
    if isinstance(value, Mapping) and kind not in _KINDS:
        said = f"the kind {kind!r} is unknown" if kind else "kind is missing"
        remedy = f"write kind: {' or '.join(_KINDS)}"
        raise InvalidManifest(f"{file}: {said}", file=file, field="kind", remedy=remedy)
    return _KINDS.get(kind, ModelDeployment).parse(value, file=file)


def _kind_of(value: object) -> tuple[str, str]:
    """API group and kind; empty where they are not there."""
    if not isinstance(value, Mapping):
        return "", ""
    kind, version = value.get("kind"), value.get("apiVersion")
    group = version.rpartition("/")[0] if isinstance(version, str) else ""
    return group, kind if isinstance(kind, str) else ""


def _broken(file: Path, document: YamlDocument) -> InvalidManifest:
    return InvalidManifest(f"{file}, {document.problem}", file=str(file), remedy=document.remedy)
