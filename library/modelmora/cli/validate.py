"""`modelmora validate`: the checks of a cluster's API server, without a cluster."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from modelmora.cli.connection import AsJson
from modelmora.cli.output import show_error, show_json, show_table
from modelmora.errors import InvalidManifest
from modelmora.spec.manifests import Document, load
from modelmora.wire.status import to_problem


def validate(
    files: Annotated[list[Path], typer.Argument(help="Manifests, or folders of them.")], *, as_json: AsJson = False
) -> None:
    """Check manifests without a cluster. Exit code 1 if one of them is wrong."""
    documents = load(files, variables=dict(os.environ))  # noqa: TID251 - the variables that manifests may name
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
