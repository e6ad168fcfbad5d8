"""What `modelmora serve` says once it answers: to people on stdout, to programs in its state directory."""

import asyncio
import json
import os
import sys
from importlib.metadata import version
from typing import Final, Self

from modelmora.cli.infer import show_result
from modelmora.cli.output import console, show_error
from modelmora.client import AsyncClient
from modelmora.client.settings import DEFAULT_TARGET
from modelmora.control import Key
from modelmora.control.local import LocalControl
from modelmora.errors import ModelMoraError
from modelmora.spec import ModelDeployment
from modelmora_operator.backends.client_sockets import path_of
from modelmora_operator.settings import OperatorSettings
from modelmora_router.server import Bound

SERVER_FILE: Final = "server.json"


class Announcement:
    """Tells people and programs where the server answers, from its start to its end."""

    def __init__(
        self, settings: OperatorSettings, control: LocalControl, ask: str | None, tasks: asyncio.TaskGroup
    ) -> None:
        self._file = settings.state_dir / SERVER_FILE
        self._sockets = settings.sockets.absolute()
        self._control = control
        self._ask = ask
        self._tasks = tasks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.unlink(missing_ok=True)

    def show(self, bound: Bound) -> None:
        """Called once, when requests are taken."""
        host = f"[{bound.host}]" if ":" in bound.host else bound.host
        rest, grpc = f"{host}:{bound.rest_port}", f"{host}:{bound.grpc_port}"
        draft = self._file.with_suffix(".draft")
        found = {"pid": os.getpid(), "rest": rest, "grpc": grpc, "sockets": str(self._sockets)}
        draft.write_text(json.dumps(found) + "\n")
        draft.replace(self._file)
        models = list((self._control.deployments.value or {}).values())
        lines = [
            f"ModelMora {version('modelmora')} serves {len(models)} model{'' if len(models) == 1 else 's'}",
            *(line for each in models for line in self._told(each)),
            f"REST http://{rest} (described at /docs) · gRPC {grpc} · end with Ctrl-C",
            *(["No manifest was found there: add a ModelDeployment, and it is served at once"] if not models else []),
        ]
        console().print("\n".join(lines), markup=False, soft_wrap=True)
        if self._ask is not None and models:
            self._tasks.create_task(_first_answer(grpc, models[0], self._ask), name="first answer")

    def _told(self, deployment: ModelDeployment) -> list[str]:
        model = deployment.spec.model
        lines = [f"  {deployment.model_id}@{deployment.version}  {model.task}  {model.source.uri}"]
        if deployment.spec.shared_memory is not None:
            key = Key(deployment.metadata.namespace, deployment.metadata.name)
            lines.append(f"    shares memory at MODELMORA_SOCKET={path_of(self._sockets, key)}")
        return lines


async def _first_answer(target: str, deployment: ModelDeployment, text: str) -> None:
    out, model_id = console(), deployment.model_id
    out.print(f"\nAsking {model_id}: {text}", markup=False, soft_wrap=True)
    try:
        async with AsyncClient(target, namespace=deployment.metadata.namespace) as client:
            result = await client.infer(model_id, text)
    except ModelMoraError as error:
        show_error(error)
        return
    show_result(result)
    port = target.rpartition(":")[2]
    server = "" if port == DEFAULT_TARGET.rpartition(":")[2] else f" --server {target}"
    again = f'{_program()} infer {model_id} "…"{server}'
    out.print(f"Ask again, in another terminal: {again}", markup=False, soft_wrap=True)


def _program() -> str:
    """As the person called it."""
    name = sys.argv[0]
    return "python -m modelmora" if name.endswith("__main__.py") else name
