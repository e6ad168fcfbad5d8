"""`modelmora infer`."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from modelmora.cli.connection import AsJson, Namespace, Server, connect
from modelmora.cli.output import console, jsonable, short, show_json
from modelmora.client import Client, InferenceResult
from modelmora.errors import InvalidRequest, ModelMoraError

_LOOK_EVERY_S = 0.5


def infer(  # noqa: PLR0913 - the options of the command
    model_id: Annotated[str, typer.Argument(help="The id, or id@version.")],
    text: Annotated[list[str] | None, typer.Argument(help="Texts; - or none reads lines from stdin.")] = None,
    *,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="name=value, the value as JSON; may be repeated.")
    ] = None,
    priority: Annotated[str | None, typer.Option(help="CRITICAL, HIGH, NORMAL or LOW.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds it may take once the model is awake.")] = None,
    deadline: Annotated[float, typer.Option(help="Seconds it may take in all, a cold start included.")] = 300,
    server: Server = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model one thing. The first request wakes it."""
    texts = _lines() if text in (None, [], ["-"]) else list(text or [])
    with connect(server, namespace) as client, progress(client, model_id):
        result = client.infer(
            model_id,
            texts,
            parameters=dict(_parameter(each) for each in parameter or []),
            priority=priority,
            timeout_seconds=timeout,
            deadline_seconds=deadline,
        )
    show_json(document(result)) if as_json else show_result(result)


def _lines() -> list[str]:
    """The texts on stdin, one a line; blank lines are none.

    Raises:
        InvalidRequest: it is not UTF-8.
    """
    try:
        lines = sys.stdin.buffer.read().decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"stdin is not UTF-8: {error.reason}", field="input.text", remedy="send UTF-8") from error
    return [line for line in lines if line.strip()]


def document(result: InferenceResult) -> dict[str, Any]:
    """The answer in the form that REST gives it."""
    timing = result.timing
    return {
        "modelId": result.model_id,
        "version": result.version,
        "output": {name: jsonable(items) for name, items in result.output.items()},
        "timing": {"queueMs": timing.queue_ms, "inferenceMs": timing.inference_ms, "totalMs": timing.total_ms},
        "requestId": result.request_id,
    }


def show_result(result: InferenceResult) -> None:
    """The answer, shortened for people."""
    out = console()
    for name, items in result.output.items():
        out.print(f"{name}: {short(items)}", markup=False, soft_wrap=True)
    timing = result.timing
    out.print(
        f"{result.model_id}@{result.version} in {timing.total_ms:.1f} ms"
        f" (waited {timing.queue_ms:.1f}, computed {timing.inference_ms:.1f})",
        style="dim",
        markup=False,
        soft_wrap=True,
    )


def _parameter(word: str) -> tuple[str, Any]:
    name, separator, value = word.partition("=")
    if not (name and separator):
        raise InvalidRequest(f"-p {word} has no name and value", field="parameters", remedy="write -p name=value")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


@contextmanager
def progress(client: Client, model_id: str) -> Iterator[None]:
    """Tells a person at a terminal what the model is doing while they wait."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield
        return
    done = threading.Event()
    with out.status(f"asking {model_id} …") as line:
        watcher = threading.Thread(target=_watch, args=(client, model_id, line, done), name="progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _watch(client: Client, model_id: str, line: Any, done: threading.Event) -> None:  # noqa: ANN401 - rich.status.Status
    while not done.wait(_LOOK_EVERY_S):
        try:
            state = client.get_model(model_id).state
        except ModelMoraError:
            return  # the request itself says what is wrong
        line.update(f"{model_id} is {state} …" if state != "Loaded" else f"asking {model_id} …")
