"""`modelmora info --system`: what this machine has, tried out."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from modelmora.cli.output import show_json, show_table
from modelmora.tensors import Capabilities, capabilities


def show_system(*, as_json: bool) -> None:
    """Prints it."""
    found = capabilities()
    if as_json:
        show_json(_document(found))
    else:
        show_table(["", ""], _details(found))


def _document(found: Capabilities) -> dict[str, Any]:
    fields = asdict(found)
    return {"version": version("modelmora"), "python": platform.python_version(), "system": platform.platform()} | {
        "sharedMemory": fields["shared_memory"],
        "backing": fields["backing"],
        "why": fields["why"],
        "gpus": list(fields["gpus"]),
    }


def _details(found: Capabilities) -> list[list[str]]:
    shared = f"yes ({found.backing})" if found.shared_memory else f"no: {found.why}"
    return [
        ["modelmora", version("modelmora")],
        ["python", platform.python_version()],
        ["system", platform.platform()],
        ["shared memory", shared],
        ["gpus", ", ".join(found.gpus) or "none"],
    ]
