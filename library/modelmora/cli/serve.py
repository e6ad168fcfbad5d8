"""`modelmora serve`: operator, router and workers on this machine."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from modelmora.cli.bare_source import Sources, checked_path, deployment_of, is_source
from modelmora.cli.settings import ServeSettings
from modelmora.errors import InvalidSettings, MissingDependency
from modelmora.telemetry import LogFormat, LogLevel, configure_logging

_EXTRA = ("fastapi", "watchfiles", "uvloop")  # one package of each part that runs in this process


def serve(  # noqa: PLR0913 - the options of the command
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Manifests, folders of them, or bare sources such as hf://org/name [or by setting: sources]"
        ),
    ] = None,
    *,
    config: Annotated[
        Path | None, typer.Option(help="Settings as YAML; overridden by MODELMORA_… and by flags.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1]")] = None,
    rest_port: Annotated[int | None, typer.Option(help="REST [default: 8080]; 0 = any free port")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC [default: 9000]; 0 = any free port")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Lock and sockets [default: ~/.local/state/modelmora]")] = None,
    socket_dir: Annotated[
        Path | None,
        typer.Option(help="Where programs find models with sharedMemory [default: sockets in the state directory]"),
    ] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Fetched models [default: ~/.cache/modelmora]")] = None,
    drain_timeout_s: Annotated[
        float | None, typer.Option("--drain-timeout-s", help="Seconds that running requests may take at the end.")
    ] = None,
    max_workers: Annotated[
        int | None, typer.Option(help="Most models' workers at once; more take turns [default: no bound]")
    ] = None,
    task: Annotated[str | None, typer.Option(help="What the model of a bare source does [default: txt2embed]")] = None,
    ask: Annotated[str | None, typer.Option(help="Ask the first model this once, and print its answer.")] = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="How log lines look [default: auto]")] = None,
    log_level: Annotated[
        LogLevel | None, typer.Option(help="What is logged [default: INFO]", case_sensitive=False)
    ] = None,
) -> None:
    """Serve models on this machine until Ctrl-C. Manifests are watched; a change takes effect without a restart."""
    _need_the_extra()
    from modelmora.cli import local  # noqa: PLC0415 - only here, so that the light install has a command line

    flags: dict[str, Any] = {
        "sources": sources or None,
        "task": task,
        "log_format": log_format,
        "log_level": log_level,
        "host": host,
        "rest_port": rest_port,
        "grpc_port": grpc_port,
        "state_dir": state_dir,
        "socket_dir": socket_dir,
        "cache_dir": cache_dir,
        "drain_timeout_s": drain_timeout_s,
        "max_workers": max_workers,
    }
    settings = local.read_settings(config, flags)
    configure_logging(log_format=settings.serve.log_format, level=settings.serve.log_level.value)
    local.warn_of_unknown_variables()
    local.run(_wanted(settings.serve), settings=settings, ask=ask)


def _wanted(settings: ServeSettings) -> Sources:
    """What the settings name.

    Raises:
        InvalidSettings: nothing at all.
        InvalidManifest, InvalidSource: something that cannot be served.
    """
    if not settings.sources:
        raise InvalidSettings(
            "there is nothing to serve",
            field="sources",
            remedy="name manifests, folders of them, or a bare source: modelmora serve hf://org/name",
        )
    return Sources(
        paths=[checked_path(word) for word in settings.sources if not is_source(word)],
        deployments=[deployment_of(word, task=settings.task) for word in settings.sources if is_source(word)],
    )


def _need_the_extra() -> None:
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f"serving needs packages that are not installed: {', '.join(missing)}",
            remedy="pip install 'modelmora[serve]'",
        )
