"""The operator's settings: default < environment < what the caller passes. Seconds unless the name says otherwise."""

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from modelmora_operator.backoff import Backoff
from modelmora_operator.plan import Policy
from modelmora_operator.sharing import Rules

CLIENT_SOCKETS: Final = "sockets"  # in the state directory
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class OperatorSettings(BaseSettings):
    """Read once, passed down."""

    model_config = SettingsConfigDict(
        env_prefix="MODELMORA_", extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    state_dir: Path = Field(default_factory=lambda: Path.home() / ".local" / "state" / "modelmora")
    """Sockets, logs and the lock of this server; two servers never share one."""
    cache_dir: Path = Field(default_factory=lambda: Path.home() / ".cache" / "modelmora")
    """Fetched models."""
    socket_dir: Path | None = None
    """Where programs find models with sharedMemory, each at NAMESPACE.NAME.sock; default: sockets in state_dir."""
    initial_replicas: int = Field(default=0, ge=0, le=1000)
    """Workers of a new spec before anybody asks, for deployments that do not say."""
    drain_timeout_s: Seconds = 30.0
    """How long a worker may finish what it accepted before it is killed."""
    resync_s: Seconds = 60.0
    """Every deployment is looked at again this often, whatever was missed."""
    rescan_s: Seconds = 5.0
    """Manifests are read again this often, even if no change of a file was heard of."""
    reconcile_concurrency: int = Field(default=4, ge=1, le=64)
    """Deployments that are worked on side by side."""
    load_backoff_first_s: Seconds = 1.0
    """Wait after the first failed load; doubles with each further one."""
    load_backoff_cap_s: Seconds = 300.0
    """Longest wait between loads."""
    load_backoff_jitter: float = Field(default=0.1, ge=0, le=1)
    """Part of a wait that chance may take away."""
    max_workers: int | None = Field(default=None, ge=1, le=100_000)
    """The most workers that exist at once, ending ones included; models that want more take turns. None: no bound."""
    turn_s: Seconds = 60.0
    """With max_workers: how long a busy model keeps its place while others wait that are as urgent."""
    ageing_s: float = Field(default=30.0, ge=0, le=86_400, allow_inf_nan=False)
    """What has waited so long counts as one priority more urgent, and so on up to HIGH; 0: never."""
    warm_parent: bool = True
    """Workers are forked from a process that has imported the libraries; off: each starts from nothing."""

    @property
    def sockets(self) -> Path:
        """The folder where programs look for models."""
        return self.socket_dir or self.state_dir / CLIENT_SOCKETS

    @property
    def policy(self) -> Policy:
        """What decisions depend on."""
        backoff = Backoff(self.load_backoff_first_s, self.load_backoff_cap_s, self.load_backoff_jitter)
        sharing = Rules(self.max_workers, self.turn_s, self.ageing_s) if self.max_workers is not None else None
        return Policy(initial_replicas=self.initial_replicas, backoff=backoff, sharing=sharing)
