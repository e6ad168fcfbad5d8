"""What a worker is told when it starts: by its parent as JSON, or in a pod by variables MODELMORA_WORKER_…"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from modelmora.errors import InvalidSettings
from modelmora.spec import ModelDeployment
from modelmora.telemetry import LogFormat

PREFIX = "MODELMORA_WORKER_"


def _deployment(value: Any) -> ModelDeployment:  # noqa: ANN401 - whatever stands in the settings
    if isinstance(value, ModelDeployment):
        return value
    return ModelDeployment.stored(json.loads(value) if isinstance(value, str) else value)


class WorkerSettings(BaseSettings):
    """Read once, passed down. Times in seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    deployment: Annotated[ModelDeployment, BeforeValidator(_deployment)]
    worker_id: str = Field(min_length=1)
    address: str = Field(min_length=1)
    """gRPC target to listen on: "unix:/folder/w.sock" or "0.0.0.0:9100"."""
    health_address: str | None = None
    """A second one for grpc.health.v1 alone; the first serves it too."""
    client_socket: Path | None = None
    """Where callers of this machine find the worker; beside it, with the ending ".tensors", where they share memory."""
    client_socket_mode: int = Field(default=0o600, ge=0o600, le=0o666)
    """Who may call there: 0o600 its own user, 0o666 all that can see the folder, as the containers of a pod do."""
    session_quota_bytes: int = Field(default=256 * 1024 * 1024, ge=0)
    """Of shared memory that one session may have on each side; 0: none."""
    max_sessions: int = Field(default=64, ge=1)
    cache_dir: Path
    files_dir: Path | None = None
    """Where the deployment's runtime.files are written; it goes on the Python path."""
    volumes_dir: Path | None = None
    """In a pod: where PersistentVolumeClaims are mounted, each in a folder of its name."""
    termination_message_path: Path | None = None
    source_token: SecretStr | None = None
    """For hf://; without it, what the Hub's own library finds."""
    drain_timeout_s: float = Field(default=30.0, ge=0)
    status_interval_s: float = Field(default=2.0, gt=0)
    """How often memory is measured."""
    max_message_bytes: int = Field(default=64 * 1024 * 1024, ge=1024 * 1024)
    max_queued_entries: int = Field(default=1024, ge=1)
    ageing_s: float = Field(default=30.0, ge=0)
    """As the router's setting: an entry that has waited so long counts as one priority more urgent; 0: never."""
    started_at: float | None = None
    """Unix time at which the parent began to start this process."""
    first_start_file: Path | None = None
    """Made by the first start; a restart in its place, which finds it, does not count from started_at."""
    exit_with_parent: bool = False
    parent_pid: int | None = None
    """For a fresh process with exit_with_parent: who must be its parent."""
    log_format: LogFormat = LogFormat.JSON
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def model_id(self) -> str:
        return self.deployment.model_id

    @property
    def identity(self) -> str:
        """As routers know this worker."""
        return f"{self.deployment.metadata.namespace}/{self.worker_id}"


def read(settings_json: str | None = None) -> WorkerSettings:
    """From JSON, then from the environment where the JSON is silent.

    Raises:
        InvalidSettings: a setting is missing or wrong.
        InvalidManifest: the deployment cannot be understood.
    """
    try:
        given = json.loads(settings_json) if settings_json is not None else {}
        return WorkerSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidSettings(
            f"the worker's setting {name} is wrong: {first['msg']}",
            field=name,
            remedy=f"correct it in the settings file, or in {PREFIX}{name.upper()}",
        ) from error
    except (ValueError, TypeError) as error:
        raise InvalidSettings(f"the worker's settings are no JSON object: {error}", remedy="give one object") from error


def socket_path(address: str) -> Path | None:
    """The file of a unix socket's address; None for any other."""
    scheme, _, path = address.partition(":")
    if scheme != "unix":
        return None
    return Path("/" + path.lstrip("/") if path.startswith("/") else path)
