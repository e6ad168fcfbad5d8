"""How a command reaches the server: the options that they share."""

from typing import Annotated

import typer

from modelmora.cli import settings
from modelmora.client import Client

Server = Annotated[
    str | None,
    typer.Option("--server", help="host:port of the server's gRPC [env: MODELMORA_SERVER; default: localhost:9000]"),
]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Whose models [env: MODELMORA_NAMESPACE; default: the server's]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def connect(server: str | None, namespace: str | None, *, deadline_seconds: float = 30) -> Client:
    """A client for the server that flags or environment name."""
    flags = {"server": server, "namespace": namespace}
    chosen = settings.read(settings.ClientSettings, file_values={}, flags=flags)
    return Client(chosen.server, namespace=chosen.namespace, deadline_seconds=deadline_seconds)
