"""What can be set of the router: by flag, by MODELMORA_… in the environment, or by file."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from modelmora.errors import InvalidSettings
from modelmora.telemetry import LogFormat, LogLevel

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]

S = TypeVar("S", bound=BaseSettings)

_MEBIBYTE = 1024 * 1024


class RouterSettings(BaseSettings):
    """The router's settings; every time is in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="MODELMORA_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The address on which REST and gRPC listen; 0.0.0.0 for every interface."""
    rest_port: Port = 8080
    """0 takes any free port."""
    grpc_port: Port = 9000
    """0 takes any free port."""
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Router processes on these two ports; each is a router of its own. In a cluster: `modelmora serve` runs one."""
    default_namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = "default"
    """The namespace of requests that name none."""
    max_request_bytes: Annotated[int, Field(ge=1024, le=1024 * _MEBIBYTE)] = 32 * _MEBIBYTE
    """Larger requests are refused before they are read."""
    body_timeout_s: Seconds = 60
    """How long the body of a REST request may take to arrive."""
    max_response_bytes: Annotated[int, Field(ge=1024, le=1024 * _MEBIBYTE)] = 64 * _MEBIBYTE
    """Larger answers of workers are refused."""
    max_text_chars: Annotated[int, Field(ge=1)] = 1_000_000
    """Of one text in a request."""
    max_items: Annotated[int, Field(ge=1)] = 10_000
    """Texts or images in one input of a request."""
    max_held_bytes: Annotated[int, Field(ge=_MEBIBYTE)] = 1024 * _MEBIBYTE
    """Of requests, in all its processes; beyond 70 % LOW is refused, 85 % NORMAL, 95 % HIGH, 100 % CRITICAL."""
    max_unanswered: Annotated[int, Field(ge=1, le=100_000)] = 128
    """Requests of one stream (InferStream) that are read ahead of their answers."""
    write_timeout_s: Seconds = 60
    """How long a client of a stream may take no answer that is there for it; then the stream is ended."""
    max_rate_limited_clients: Annotated[int, Field(ge=1, le=100_000_000)] = 100_000
    """Clients whose rate is remembered, for models with a rateLimit per Client."""
    max_copies: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Copies under way for one mirror of a route, all of them within a quarter of max_held_bytes; more are dropped."""
    drain_timeout_s: Seconds = 30
    """How long accepted requests may take once the router is asked to end."""
    close_timeout_s: Seconds = 5
    """How long connections may take to close after that."""
    retry_after_s: Seconds = 5
    """What a refused caller is told to wait while a model wakes or recovers."""
    unload_timeout_s: Seconds = 120
    """How long an unload waits for the workers to end."""
    report_s: Seconds = 2
    """How long the answer to a load or unload waits for the status to say so too."""
    demand_interval_s: Seconds = 1
    """How often demand is looked at; a wake is published at once."""
    connect_timeout_s: Seconds = 5
    """How long a worker that says it serves may take to accept the call stream."""
    ageing_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 30
    """A request that has waited so long counts as one priority more urgent, and so on up to HIGH; 0: never."""
    breaker_failures: Annotated[int, Field(ge=1, le=1000)] = 5
    """Failures of a worker in a row after which nothing is sent to it for a while."""
    breaker_open_s: Seconds = 1
    """How long nothing is sent to a worker that fails, before one request is tried; doubled each time that fails."""
    breaker_max_open_s: Seconds = 30
    """The longest time between two such tries."""
    linger_s: Seconds = 2
    """How long the last results of a worker that has left are waited for."""
    slow_request_s: Seconds = 30
    """Requests that take longer are logged with a warning."""

    def shared_out(self) -> Self:
        """For one of the processes: its part of what bounds the memory of all."""
        part = {
            "max_held_bytes": max(_MEBIBYTE, self.max_held_bytes // self.processes),
            "max_rate_limited_clients": max(1, self.max_rate_limited_clients // self.processes),
        }
        return self.model_copy(update=part)


class ClusterSettings(BaseSettings):
    """What the router's program in a cluster needs to know besides; the chart sets it."""

    model_config = SettingsConfigDict(
        env_prefix="MODELMORA_ROUTER_",
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        use_attribute_docstrings=True,
    )

    namespace: Annotated[str, Field(min_length=1)] = "default"
    """Of the installation: where the router's Lease is."""
    namespaces: tuple[str, ...] = ()
    """Whose models are served, as a JSON list; none named: those of all namespaces."""
    pod_name: Annotated[str, Field(min_length=1)] = Field(default_factory=socket.gethostname)
    """Names the Lease."""
    pod_uid: str = ""
    """Owns the Lease, so that it goes with the pod."""
    kubeconfig: Path | None = None
    """The cluster, for a router that runs outside of it."""
    api_timeout_s: Seconds = 30
    """How long the first answer of the Kubernetes API is waited for."""
    log_level: LogLevel = LogLevel.INFO
    """DEBUG, INFO, WARNING or ERROR."""
    log_format: LogFormat = LogFormat.AUTO
    """console, json, or auto: console at a terminal."""


class ProcessSettings(BaseSettings):
    """What one of several router processes is told by the one that started it; never set by a person."""

    model_config = SettingsConfigDict(
        env_prefix="MODELMORA_ROUTER_PROCESS_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    number: Annotated[int, Field(ge=0, le=64)] = 0
    """From 1 on; 0: not one of several."""
    folder: Path = Path()
    """Where the processes reach each other."""
    parent_pid: int = 0
    """Who started it, and with whom it ends."""

    def variables(self) -> dict[str, str]:
        """The environment that says the same."""
        prefix = self.model_config["env_prefix"]
        return {f"{prefix}{name.upper()}": str(value) for name, value in self.model_dump().items()}


class TracingSettings(BaseSettings):
    """Where spans go, by the variables that every program with OpenTelemetry has. The exporter reads more of them."""

    model_config = SettingsConfigDict(
        env_prefix="OTEL_", frozen=True, extra="ignore", env_ignore_empty=True, use_attribute_docstrings=True
    )

    exporter_otlp_endpoint: str = ""
    """The URL of a collector that takes OTLP. Empty: no spans are exported."""
    exporter_otlp_protocol: Literal["grpc", "http/protobuf"] = "grpc"
    """How it is spoken to."""
    service_name: Annotated[str, Field(min_length=1)] = "modelmora-router"
    """What the spans say who made them."""


def read(kind: type[S]) -> S:
    """Settings from the environment.

    Raises:
        InvalidSettings: one of them is wrong; `field` says which.
    """
    prefix = kind.model_config["env_prefix"]
    try:
        return kind()
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidSettings(
            f"the setting {name} is wrong: {first['input']!r}: {first['msg']}",
            field=name,
            remedy=f"correct {prefix}{name.split('.')[0].upper()} in the environment",
        ) from error
    except SettingsError as error:
        raise InvalidSettings(f"{error}", remedy=f"write a list as JSON: {prefix}NAMESPACES='[\"a\"]'") from error


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the router, and of its program in a cluster."""

    router: RouterSettings
    cluster: ClusterSettings
    tracing: TracingSettings
    process: ProcessSettings

    @classmethod
    def read(cls) -> Self:
        """From the environment.

        Raises:
            InvalidSettings: one of them is wrong; `field` says which.
        """
        return cls(read(RouterSettings), read(ClusterSettings), read(TracingSettings), read(ProcessSettings))
