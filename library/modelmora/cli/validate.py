"""`modelmora validate`: the checks of a cluster's API server, without a cluster."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from modelmora.cli.connection import AsJson
from modelmora.cli.output import show_error, show_json, show_table
from modelmora.errors import InvalidManifest, InvalidSource
from modelmora.sources import parse
from modelmora.spec.manifests import Document, load
from modelmora.wire.status import to_problem

_FETCHED_HERE: Final = ("hf://", "file://", "package://")  # the others mean what a cluster makes of them


def validate(
    files: Annotated[list[Path], typer.Argument(help="Manifests, or folders of them.")], *, as_json: AsJson = False
) -> None:
    """Check manifests without a cluster. Exit code 1 if one of them is wrong."""
    read = load(files, variables=dict(os.environ))  # noqa: TID251 - the variables that manifests may name
    documents = [_with_source_checked(document) for document in _each_once(read)]
    errors = [document.error for document in documents if document.error] or _empty(files, documents)
    if as_json:
        show_json({"valid": not errors, "documents": [_row(each) for each in documents]})
    else:
        show_table(["file", "document", "result"], [_words(document) for document in documents])
        for error in errors:
            show_error(error)
    if errors:
        raise typer.Exit(1)


def _empty(files: Iterable[Path], documents: list[Document]) -> list[InvalidManifest]:
    if any(document.resource for document in documents):
        return []
    named = ", ".join(map(str, files))
    return [
        InvalidManifest(f"{named}: no manifest of ours in it", file=named, remedy="name a file with a ModelDeployment")
    ]


def _each_once(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents, with an error where one says again what another says already."""
    seen: dict[tuple[str, ...], Document] = {}
    for document in documents:
        first = next((seen[name] for name in _identities(document) if name in seen), None)
        seen |= {name: document for name in _identities(document) if name not in seen}
        yield document if first is None else replace(document, resource=None, error=_again(document, first))


def _identities(document: Document) -> list[tuple[str, ...]]:
    resource, deployment = document.resource, document.deployment
    if resource is None:
        return []
    identities: list[tuple[str, ...]] = [(resource.kind, resource.metadata.namespace, resource.metadata.name)]
    if deployment is not None:
        identities.append((resource.metadata.namespace, deployment.model_id, deployment.version, "version"))
    return identities


def _again(document: Document, first: Document) -> InvalidManifest:
    return InvalidManifest(
        f"{document.file}, document {document.number}: {_name(document)} is the same object, or the same version of the"
        f" same model, as {_name(first)} in {first.file}, document {first.number}",
        model_id=document.deployment.model_id if document.deployment else "",
        file=str(document.file),
        field="metadata.name, spec.model.version",
        remedy="give it another name and another version, or remove one of them",
    )


def _with_source_checked(document: Document) -> Document:
    deployment = document.deployment
    uri = deployment.spec.model.source.uri if deployment else ""
    if not uri.startswith(_FETCHED_HERE):
        return document
    try:
        parse(uri)
    except InvalidSource as error:
        context = error.context
        wrong = InvalidManifest(error.message, file=str(document.file), field=context.field, remedy=context.remedy)
        return replace(document, resource=None, error=wrong)
    return document


def _row(document: Document) -> dict[str, object]:
    place = {"file": str(document.file), "document": document.number, "line": document.line}
    if document.error:
        return {**place, "valid": False, "error": to_problem(document.error)}
    return {**place, "valid": True, "name": _name(document), "warning": document.warning}


def _words(document: Document) -> list[str]:
    result = "wrong" if document.error else document.warning or f"{_name(document)} is valid"
    return [str(document.file), str(document.number), result]


def _name(document: Document) -> str:
    resource = document.resource
    return f"{resource.kind} {resource.metadata.name}" if resource else ""
