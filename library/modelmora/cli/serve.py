"""`modelmora serve`: operator, router and workers on this machine."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from modelmora.cli.bare_source import checked_path, deployment_of, is_source
from modelmora.errors import MissingDependency
from modelmora.telemetry import LogFormat, LogLevel, configure_logging, resolved

_EXTRA = ("fastapi", "watchfiles", "uvloop")  # one package of each part that runs in this process


def serve(  # noqa: PLR0913 - the options of the command
    sources: Annotated[
        list[str], typer.Argument(help="Manifests, folders of them, or a bare source such as hf://org/name.")
    ],
    *,
    config: Annotated[
        Path | None, typer.Option(help="Settings as YAML; overridden by MODELMORA_… and by flags.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1]")] = None,
    rest_port: Annotated[int | None, typer.Option(help="REST [default: 8080]; 0 = any free port")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC [default: 9000]; 0 = any free port")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Lock and sockets [default: ~/.local/state/modelmora]")] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Fetched models [default: ~/.cache/modelmora]")] = None,
    drain_timeout_s: Annotated[
        float | None, typer.Option("--drain-timeout-s", help="Seconds that running requests may take at the end.")
    ] = None,
    task: Annotated[str, typer.Option(help="What the model of a bare source does.")] = "txt2embed",
    ask: Annotated[str | None, typer.Option(help="Ask the first model this once, and print its answer.")] = None,
    log_format: Annotated[LogFormat, typer.Option(help="How log lines look.")] = LogFormat.AUTO,
    log_level: Annotated[LogLevel, typer.Option(help="What is logged.", case_sensitive=False)] = LogLevel.INFO,
) -> None:
    """Serve models on this machine until Ctrl-C. Manifests are watched; a change takes effect without a restart."""
    _need_the_extra()
    from modelmora.cli import local  # noqa: PLC0415 - only here, so that the light install has a command line

    configure_logging(log_format=log_format, level=log_level.value)
    flags: dict[str, Any] = {
        "host": host,
        "rest_port": rest_port,
        "grpc_port": grpc_port,
        "state_dir": state_dir,
        "cache_dir": cache_dir,
        "drain_timeout_s": drain_timeout_s,
    }
    wanted = local.Sources(
        paths=[checked_path(word) for word in sources if not is_source(word)],
        deployments=[deployment_of(word, task=task) for word in sources if is_source(word)],
    )
    logging = {"log_format": resolved(log_format).value, "log_level": log_level.value.lower()}
    local.run(wanted, settings=local.read_settings(config, flags), ask=ask, worker_options=logging)


def _need_the_extra() -> None:
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f"serving needs packages that are not installed: {', '.join(missing)}",
            remedy="pip install 'modelmora[serve]'",
        )
