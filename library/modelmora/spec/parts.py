"""The spec of a ModelDeployment, part by part: one version of one model and how it is to be served.

The docstring below a field becomes its description in the CustomResourceDefinition and in the reference.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, WithJsonSchema

from modelmora.spec.identity import RESERVED_SEGMENTS, model_id_problem
from modelmora.spec.schema import (
    ENGINE,
    MAX_MODEL_ID,
    MAX_NAME,
    MODEL_ID,
    SEMANTIC_VERSION,
    SOURCE_URI,
    Anything,
    Part,
    PositiveCount,
    PositiveSeconds,
    Quantity,
    Seconds,
    SecretName,
    Text,
)


def _model_id(value: str) -> str:
    if problem := model_id_problem(value):
        raise ValueError(f"{value[:MAX_MODEL_ID]!r} {problem}")
    return value


def _container(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    missing = [name for name in ("name", "image") if not isinstance(value.get(name), str) or not value[name]]
    if missing:
        raise ValueError(f"a container needs {' and '.join(missing)}")
    return value


ModelId = Annotated[
    str,
    AfterValidator(_model_id),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_MODEL_ID,
            "pattern": MODEL_ID,
            "x-kubernetes-validations": [
                {
                    "rule": f"!self.matches('(^|/)({'|'.join(RESERVED_SEGMENTS)})$')",
                    "message": "must not end in a word that names an action of the REST interface: "
                    + ", ".join(RESERVED_SEGMENTS),
                }
            ],
        }
    ),
]
# As in a pod; Kubernetes checks the rest of it when the pod is made.
Container = Annotated[
    dict[str, JsonValue],
    AfterValidator(_container),
    WithJsonSchema(
        {
            "type": "object",
            "required": ["name", "image"],
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": MAX_NAME},
                "image": {"type": "string", "minLength": 1, "maxLength": 1024},
            },
            "x-kubernetes-preserve-unknown-fields": True,
        }
    ),
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)]
RelativePath = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
]
Quantities = Annotated[dict[str, Quantity], Field(max_length=32)]


class KeyRef(Part):
    """A key of a Secret or ConfigMap in the deployment's namespace."""

    name: SecretName
    """metadata.name of the object."""
    key: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """One key of it; without it, every key that the scheme of the URI knows."""


class ModelSource(Part):
    """Where the files of the model come from."""

    uri: Annotated[str, Field(min_length=1, max_length=2048, pattern=SOURCE_URI)]
    """hf://org/name@revision, s3://bucket/prefix, https://host/file, pvc://claim/path, file:///path or package://package/path."""
    secret_ref: KeyRef | None = None
    """The Secret with the token or the credentials of the source. Only in a cluster."""
    endpoint: Annotated[str, Field(min_length=1, max_length=2048, pattern=r"^https?://[^\s]+$")] | None = None
    """Another server than the public one, for example a mirror of the Hub."""
    ca_bundle_ref: KeyRef | None = None
    """The ConfigMap with the authorities that the server's certificate is checked against. Only in a cluster."""


class Integrity(Part):
    """Which files are the right ones. A mismatch is always refused."""

    sha256: Annotated[dict[str, Sha256], Field(max_length=4096)] = Field(default_factory=dict)
    """The sha256 of files, in lower-case hex, by their path in the source."""
    unpinned: Literal["Allow", "Warn", "Refuse"] = "Allow"
    """What to do with a file of weights that sha256 does not name."""


class ModelConfig(Part):
    """How the engine is to load the model."""

    vector_size: PositiveCount | None = None
    """Expected length of an embedding; a model that answers with another is refused."""
    max_length: PositiveCount | None = None
    """Longest input in tokens; default: the model's own."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Number type of the weights in memory; auto: as the files say."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: cuda if there is one."""
    parameters: Anything = Field(default_factory=dict)
    """Whatever the engine knows beyond these, for example default values of a request's parameters."""


class Model(Part):
    """Which model this is."""

    id: ModelId | None = None
    """What clients ask for; default: metadata.name. Unique in a namespace but for its versions. Immutable."""
    version: Annotated[str, Field(min_length=5, max_length=64, pattern=SEMANTIC_VERSION)] = "1.0.0"
    """Semantic version of this deployment of the model. Immutable."""
    task: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9]+([._-][a-z0-9]+)*$")]
    """txt2embed, img2embed, txt2img, img2txt or txt2txt; another name only with an engine of your own."""
    source: ModelSource
    """Where its files come from."""
    integrity: Integrity = Integrity()
    """Which files are the right ones."""
    config: ModelConfig = ModelConfig()
    """How the engine is to load it."""


class EnvVar(Part):
    """An environment variable of the worker."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]
    """Its name."""
    value: Annotated[str, Field(max_length=32768)] | None = None
    """Its value."""
    value_from: Anything | None = None
    """As in a pod: fieldRef, secretKeyRef, configMapKeyRef, … Only in a cluster."""


class RuntimeFile(Part):
    """A small file that the deployment brings along, for example the code of its engine."""

    path: RelativePath
    """Relative to a folder on the worker's Python path."""
    content: Annotated[str, Field(max_length=262_144)]
    """Its text."""


class Runtime(Part):
    """The program that serves the model."""

    image: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\s]+$")] | None = None
    """Container image of the worker; default: the operator's. Only in a cluster."""
    engine: Annotated[str, Field(min_length=1, max_length=253, pattern=ENGINE)] | None = None
    """Name of a built-in engine, or python:module:Class for your own; default: the built-in engine of the task."""
    args: Annotated[tuple[Text, ...], Field(max_length=64)] = ()
    """Further arguments of the worker's program. Only in a cluster."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=128)] = ()
    """Environment variables of the worker."""
    env_from: Annotated[tuple[Anything, ...], Field(max_length=32)] = ()
    """As in a pod: configMapRef, secretRef. Only in a cluster."""
    files: Annotated[tuple[RuntimeFile, ...], Field(max_length=32)] = ()
    """Files that the worker finds on its Python path."""


class Resources(Part):
    """What a worker needs and may use, as on any container."""

    requests: Quantities = Field(default_factory=dict)
    """At least this much."""
    limits: Quantities = Field(default_factory=dict)
    """At most this much; without memory: 1.5 times what is requested or was measured."""


class Gpu(Part):
    """The accelerator of a worker."""

    mode: Literal["None", "Shared", "Exclusive"] = "None"
    """Shared: several models on one GPU, placed by their memory. Exclusive: whole GPUs."""
    memory: Quantity | None = None
    """For Shared: what the model needs on the GPU."""
    count: Annotated[int, Field(ge=1, le=64)] | None = None
    """For Exclusive: how many GPUs; default 1."""
    resource_name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")] = (
        "nvidia.com/gpu"
    )
    """The extended resource that nodes offer."""


class Scaling(Part):
    """How many workers there are, and when."""

    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 0
    """The floor. 0: the model goes to zero when idle. The scale subresource reads and writes this."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """The ceiling."""
    target_concurrency: Annotated[int, Field(ge=1, le=100_000)] = 32
    """Requests, waiting and running, that one worker is to have."""
    scale_to_zero_after_seconds: Seconds = 300
    """Idle time after which the model goes to zero."""
    scale_down_delay_seconds: Seconds = 30
    """How long fewer workers must have been enough before one is stopped; their load is an average of 5 s more."""
    initial_replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Workers of a new spec before anybody asks, so that it proves itself once; default: the operator's setting."""


class Queue(Part):
    """The requests that wait in a router."""

    default_priority: Literal["CRITICAL", "HIGH", "NORMAL", "LOW"] = "NORMAL"
    """Of requests that name none."""
    timeout_seconds: PositiveSeconds = 60
    """How long a request may take once the model can be dispatched to."""
    max_length: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Requests that may wait in one router; more are refused."""
    cold_start_timeout_seconds: PositiveSeconds = 120
    """How long a request waits for the model to wake."""


class Batching(Part):
    """How requests are put together into one pass of the engine."""

    max_size: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Most requests in a batch; 1: no batching."""
    max_wait_milliseconds: Annotated[int, Field(ge=0, le=60_000)] = 5
    """Longest wait for more requests."""
    max_tokens: PositiveCount | None = None
    """Most tokens in a batch, padding included."""


class Eviction(Part):
    """Whether the model may be stopped to make room for another."""

    policy: Literal["LRU", "Never"] = "LRU"
    """LRU: when it is idle and was used least recently."""
    min_residency_seconds: Seconds = 30
    """Time after its load in which it is not evicted."""


class Rollout(Part):
    """How a changed spec replaces what runs."""

    progress_deadline_seconds: PositiveSeconds = 600
    """After this without progress the deployment is Stalled."""


class SharedMemory(Part):
    """Zero-copy hand-over of tensors between the worker and the programs beside it."""

    size_limit: Quantity = "1Gi"
    """Of all sessions together: a volume in memory, counted in the pod's. On one machine only sessionQuota counts."""
    session_quota: Quantity = "256Mi"
    """Of one session."""


class HealthInference(Part):
    """The test inference."""

    input: Anything = Field(default_factory=dict)
    """As in a request; empty: a built-in input of the task."""
    parameters: Anything = Field(default_factory=dict)
    """As in a request."""


class Health(Part):
    """How a worker proves that it serves."""

    inference: HealthInference = HealthInference()
    """What is asked before the model is said to serve."""
    interval_seconds: PositiveSeconds | None = None
    """Asks again this often; default: only once after the load."""


class Cache(Part):
    """Where fetched files are kept."""

    prefetch: bool = False
    """Fetches and verifies the files without serving."""
    claim_name: SecretName | None = None
    """A PersistentVolumeClaim; default: the operator's. Only in a cluster."""
    size_limit: Quantity | None = None
    """Size of the node's own volume if there is no claim. Only in a cluster."""


class RateLimit(Part):
    """How many requests are admitted."""

    requests_per_second: Annotated[int, Field(ge=1, le=1_000_000)]
    """On average."""
    burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """At once; default: requestsPerSecond."""
    per: Literal["Client", "Model"] = "Client"
    """Whose requests are counted together."""


class PodTemplate(Part):
    """A strategic patch of the worker's pod."""

    metadata: Anything = Field(default_factory=dict)
    """Labels and annotations."""
    spec: Anything = Field(default_factory=dict)
    """Node selector, tolerations, affinity, priority class, service account, pull secrets, …"""


class ModelDeploymentSpec(Part):
    """One version of one model, and how it is to be served."""

    model: Model
    """Which model."""
    runtime: Runtime = Runtime()
    """Which program serves it."""
    resources: Resources = Resources()
    """What a worker needs and may use. Only in a cluster."""
    gpu: Gpu = Gpu()
    """The accelerator; on one machine model.config.device chooses. Only in a cluster."""
    scaling: Scaling = Scaling()
    """How many workers, and when."""
    queue: Queue = Queue()
    """The requests that wait."""
    batching: Batching = Batching()
    """Requests together in one pass."""
    eviction: Eviction = Eviction()
    """Room for other models."""
    rollout: Rollout = Rollout()
    """Replacing what runs."""
    shared_memory: SharedMemory | None = None
    """Zero-copy hand-over of tensors to and from programs on the worker's machine, or in its pod; absent: off."""
    sidecars: Annotated[tuple[Container, ...], Field(max_length=16)] = ()
    """Containers of yours in the worker's pod that call at its socket, and share its memory. Only in a cluster."""
    health: Health = Health()
    """The test inference."""
    cache: Cache = Cache()
    """Fetched files."""
    rate_limit: RateLimit | None = None
    """Requests that are admitted; absent: all."""
    suspend: bool = False
    """No workers and no wake: requests are refused with the reason."""
    pod_template: PodTemplate | None = None
    """A patch of the worker's pod. Only in a cluster."""
