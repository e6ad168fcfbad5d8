"""`modelmora list | info | health`."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from modelmora.cli.connection import AsJson, Namespace, Server, connect
from modelmora.cli.output import age, show_json, show_table
from modelmora.cli.system import show_system
from modelmora.client import Model
from modelmora.client.messages import Condition

_READY = "Ready"
_PHASES = ("spawn", "import", "fetch", "load", "test")  # as they follow each other; a Struct has no order


def list_models(
    *,
    task: Annotated[str, typer.Option("--task", help="Only models of this task, for example txt2embed.")] = "",
    server: Server = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """List the models that the server knows."""
    with connect(server, namespace) as client:
        models = client.list_models(task=task)
    if as_json:
        show_json([_document(model) for model in models])
        return
    show_table(
        ["model", "version", "task", "state", "ready", "reason", "replicas", "last used"],
        [_row(each) for each in models],
    )


def info(
    model_id: Annotated[str, typer.Argument(help="The id, or id@version.")] = "",
    *,
    system: Annotated[bool, typer.Option("--system", help="Of this machine instead: what it has.")] = False,
    server: Server = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Show everything about one model, or about this machine. Exit code 1 if there is no such model."""
    if bool(model_id) is system:
        raise typer.BadParameter("name a model, or ask for --system")
    if system:
        show_system(as_json=as_json)
        return
    with connect(server, namespace) as client:
        model = client.get_model(model_id)
    if as_json:
        show_json(_document(model) | {"spec": model.spec, "status": model.status})
        return
    show_table(["", ""], [[name, value] for name, value in _details(model) if value])


def health(*, server: Server = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """Check the server and its models. Exit code 0 healthy, 1 not, 3 no server answers."""
    with connect(server, namespace, deadline_seconds=10) as client:
        serving, status = client.healthy(), client.status()
    failed = [model for model in status.models if _ready(model).status == "False"]
    healthy = serving and not failed
    if as_json:
        show_json({"healthy": healthy, "serving": serving, "models": [_document(model) for model in status.models]})
    else:
        show_table(
            ["component", "state", "message"],
            [
                [
                    "server",
                    "serving" if serving else "not serving",
                    f"version {status.version}, up {age(status.started_at)}",
                ]
            ]
            + [[model.model_id, model.state, _ready(model).message] for model in status.models],
        )
    if not healthy:
        raise typer.Exit(1)


def _ready(model: Model) -> Condition:
    return model.condition(_READY) or Condition(_READY, "Unknown", "", "")


def _row(model: Model) -> list[str]:
    ready = _ready(model)
    replicas = f"{model.ready_replicas}/{model.desired_replicas}"
    words = [model.model_id, model.version, model.task, model.state, ready.status, ready.reason, replicas]
    return [*words, age(model.last_used_at)]


def _details(model: Model) -> list[tuple[str, str]]:
    ready = _ready(model)
    loading = model.status.get("lastLoad", {}).get("seconds", {})
    phases = " · ".join(f"{phase} {loading[phase]:.3f} s" for phase in sorted(loading, key=_phase_order))
    return [
        ("model", model.model_id),
        ("version", model.version),
        ("task", model.task),
        ("source", model.source),
        ("deployment", f"{model.namespace}/{model.name}"),
        ("state", model.state),
        ("ready", f"{ready.status} ({ready.reason})"),
        ("message", ready.message),
        ("replicas", f"{model.ready_replicas} ready of {model.desired_replicas}"),
        ("requests", f"{model.queued} waiting, {model.running} running"),
        ("last used", age(model.last_used_at)),
        ("last load", phases),
        ("artifact", str(model.status.get("artifact", {}).get("digest", ""))),
    ]


def _phase_order(phase: str) -> int:
    return _PHASES.index(phase) if phase in _PHASES else len(_PHASES)


def _document(model: Model) -> dict[str, Any]:
    last_used = model.last_used_at.isoformat().replace("+00:00", "Z") if model.last_used_at else None
    return {
        "namespace": model.namespace,
        "name": model.name,
        "modelId": model.model_id,
        "version": model.version,
        "task": model.task,
        "source": model.source,
        "state": model.state,
        "replicas": model.replicas,
        "readyReplicas": model.ready_replicas,
        "desiredReplicas": model.desired_replicas,
        "queued": model.queued,
        "running": model.running,
        "lastUsedAt": last_used,
        "conditions": [asdict(condition) for condition in model.conditions],
    }
