"""The settings of the operator's program in a cluster: default < environment. The chart sets them."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from modelmora.errors import InvalidSettings
from modelmora.telemetry import LogFormat, LogLevel
from modelmora_operator.backoff import Backoff
from modelmora_operator.plan import Policy
from modelmora_operator.settings import Seconds
from modelmora_operator.sharing import Rules

PREFIX = "MODELMORA_OPERATOR_"


def _upper(value: Any) -> Any:  # noqa: ANN401 - whatever stands in the environment
    return value.upper() if isinstance(value, str) else value


def _lower(value: Any) -> Any:  # noqa: ANN401 - as above
    return value.lower() if isinstance(value, str) else value


class KubernetesOperatorSettings(BaseSettings):
    """Read once, passed down. Times in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    namespace: str = Field(default="default", min_length=1)
    """Of the installation: the routers' Leases are here."""
    namespaces: tuple[str, ...] = ()
    """Where models are served, as a JSON list; none named: in all namespaces."""
    worker_image: str = "modelmora/worker"
    """Of workers whose deployment names none."""
    worker_image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """As in a pod."""
    worker_image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the namespaces of the models, as a JSON list."""
    cache_claim_name: str | None = None
    """PersistentVolumeClaim for fetched models, in each namespace of models; without one, a volume of the pod's own."""
    cache_size_limit: str | None = None
    """Of that volume of the pod's own."""
    initial_replicas: int = Field(default=1, ge=0, le=1000)
    """Workers of a new spec before anybody asks, for deployments that do not say."""
    drain_timeout_s: Seconds = 30.0
    """How long a worker may finish what it accepted before it is killed."""
    resync_s: Seconds = 120.0
    """Everything is listed and looked at again this often, whatever was missed."""
    lease_poll_s: Annotated[Seconds, Field(le=5.0)] = 3.0
    """The routers' Leases are read this often."""
    reconcile_concurrency: int = Field(default=8, ge=1, le=64)
    """Deployments that are worked on side by side."""
    reconcile_timeout_s: Seconds = 60.0
    """A reconcile that takes longer is given up and tried again."""
    load_backoff_first_s: Seconds = 1.0
    """Wait before another pod is made after one that failed for good; doubles with each further one."""
    load_backoff_cap_s: Seconds = 300.0
    """Longest wait between pods."""
    load_backoff_jitter: float = Field(default=0.1, ge=0, le=1)
    """Part of a wait that chance may take away."""
    max_workers: int | None = Field(default=None, ge=1, le=100_000)
    """The most workers that exist at once, ending ones included; models that want more take turns. None: no bound."""
    turn_s: Seconds = 60.0
    """With max_workers: how long a busy model keeps its place while others wait that are as urgent."""
    ageing_s: float = Field(default=30.0, ge=0, le=86_400, allow_inf_nan=False)
    """What has waited so long counts as one priority more urgent, and so on up to HIGH; 0: never."""
    port: int = Field(default=8081, ge=0, le=65535)
    """Of /healthz, /readyz and /metrics."""
    kubeconfig: Path | None = None
    """The cluster, for an operator that runs outside of it."""
    api_timeout_s: Seconds = 10.0
    """How long an answer of the Kubernetes API is waited for."""
    log_level: Annotated[LogLevel, BeforeValidator(_upper)] = LogLevel.INFO
    """DEBUG, INFO, WARNING or ERROR."""
    log_format: Annotated[LogFormat, BeforeValidator(_lower)] = LogFormat.AUTO
    """console, json, or auto: console at a terminal."""

    @property
    def policy(self) -> Policy:
        """What decisions depend on."""
        backoff = Backoff(self.load_backoff_first_s, self.load_backoff_cap_s, self.load_backoff_jitter)
        sharing = Rules(self.max_workers, self.turn_s, self.ageing_s) if self.max_workers is not None else None
        return Policy(initial_replicas=self.initial_replicas, backoff=backoff, sharing=sharing)


def read() -> KubernetesOperatorSettings:
    """From the environment.

    Raises:
        InvalidSettings: one of them is wrong; `field` says which.
    """
    try:
        return KubernetesOperatorSettings()
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidSettings(
            f"the setting {name} is wrong: {first['input']!r}: {first['msg']}",
            field=name,
            remedy=f"correct {PREFIX}{name.split('.')[0].upper()} in the environment",
        ) from error
    except SettingsError as error:
        raise InvalidSettings(str(error), remedy=f"write a list as JSON: {PREFIX}NAMESPACES='[\"a\"]'") from error
