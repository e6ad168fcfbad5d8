"""The pod of a worker: from its deployment to a manifest, without any I/O.

What the worker is told travels as JSON in an annotation of the pod and is mounted as a file: one object to make and to
collect, which records exactly what it was made from. The pod fits into a namespace that enforces the restricted Pod
Security Standard; spec.podTemplate is laid over it last and may say otherwise.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from modelmora.errors import InvalidSource
from modelmora.kube import names
from modelmora.sources import ClaimSource, parse
from modelmora.spec import API_VERSION, ModelDeployment
from modelmora_operator.backends import pod_resources, pod_sharing
from modelmora_operator.backends.pod_error import PodError
from modelmora_operator.backends.strategic_merge import PatchError, merged
from modelmora_operator.cluster import WorkerSpec

MOST_SETTINGS_BYTES: Final = 200 * 1024  # all annotations of an object together may have 256 KiB
CUT_OFF_S: Final = 15  # on a node that is not ready or cannot be reached
USER: Final = 65532

CACHE: Final = "/var/cache/modelmora"
FILES: Final = "/var/lib/modelmora"
VOLUMES: Final = "/mnt/modelmora"
SETTINGS_FOLDER: Final = "/etc/modelmora"
SETTINGS_FILE: Final = "settings.json"

_TERMINATION_MESSAGE: Final = "/dev/termination-log"
_GOODBYE_S: Final = 5  # beyond the drain time: last messages, and the end of the process
_LIVENESS_S: Final = 10  # importing and loading may hold the interpreter for seconds
_LIVENESS_FAILURES: Final = 6
_TOKEN_KEY: Final = "token"  # noqa: S105 - the key of a Secret that spec.model.source.secretRef does not name

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PodOptions:
    """What all workers of this operator have; what a deployment says itself comes first."""

    image: str
    now: float  # Unix time of the decision to start it
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    cache_claim_name: str | None = None
    cache_size_limit: str | None = None  # of the node's own volume, where there is no claim
    drain_timeout_s: float = 30.0
    more: Mapping[str, str] = field(default_factory=dict)  # further settings of the worker, by their names there


def pod(worker: WorkerSpec, options: PodOptions) -> Object:
    """The whole manifest.

    Raises:
        PodError: the deployment asks for a pod that cannot be.
    """
    deployment = worker.deployment
    _refuse_shared_gpu(deployment)
    metadata = _metadata(worker, options)
    ours = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _spec(deployment, options)}
    return _with_identity(_patched(ours, deployment), metadata)


def _refuse_shared_gpu(deployment: ModelDeployment) -> None:
    """A worker that nobody places on a GPU would serve from the CPU, and nobody would notice but by its slowness."""
    if deployment.spec.gpu.mode == "Shared":
        raise PodError(
            "FeatureUnavailable",
            f"model {deployment.model_id} wants to share a GPU, which is not in this release",
            "set spec.gpu.mode to Exclusive or to None",
        )


def settings(worker: WorkerSpec, options: PodOptions) -> Object:
    """What the worker is told, by the names of its settings."""
    return {
        **options.more,
        "deployment": _told(worker.deployment),
        "worker_id": worker.worker_id,
        "address": f"0.0.0.0:{names.CALL_PORT}",
        "health_address": f"0.0.0.0:{names.HEALTH_PORT}",
        "cache_dir": CACHE,
        "files_dir": f"{FILES}/files",
        "volumes_dir": VOLUMES,
        "first_start_file": f"{FILES}/started",
        "termination_message_path": _TERMINATION_MESSAGE,
        "drain_timeout_s": options.drain_timeout_s,
        "started_at": options.now,
        **pod_sharing.settings(worker.deployment),
    }


# ------------------------------------------------------------------------------------------------ what it is


def _metadata(worker: WorkerSpec, options: PodOptions) -> Object:
    deployment = worker.deployment
    return {
        "name": worker.worker_id,
        "namespace": worker.key.namespace,
        "labels": {
            "app.kubernetes.io/name": "modelmora-worker",
            "app.kubernetes.io/managed-by": names.MANAGER,
            "app.kubernetes.io/part-of": "modelmora",
            names.COMPONENT: names.WORKER,
            names.DEPLOYMENT: deployment.metadata.name,
            names.SPEC_HASH: worker.spec_hash,
        },
        "annotations": {
            names.MODEL: f"{deployment.model_id}@{deployment.version}",
            names.WORKER_SETTINGS: _settings_text(worker, options),
        },
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": deployment.kind,
                "name": deployment.metadata.name,
                "uid": deployment.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": False,  # true would need a right on the deployment's finalizers
            }
        ],
    }


def _settings_text(worker: WorkerSpec, options: PodOptions) -> str:
    text = json.dumps(settings(worker, options), ensure_ascii=False, separators=(",", ":"))
    size = len(text.encode())
    if size > MOST_SETTINGS_BYTES:
        raise PodError(
            "SpecTooLarge",
            f"what a worker of model {worker.deployment.model_id} is told has {size} bytes; a pod has room for "
            f"{MOST_SETTINGS_BYTES}",
            "put the files of spec.runtime.files into an image of your own (spec.runtime.image) or on a volume",
        )
    return text


def _told(deployment: ModelDeployment) -> Object:
    """The part of a deployment that a worker looks at."""
    manifest = deployment.manifest()
    manifest.pop("status", None)
    manifest["metadata"] = {"name": deployment.metadata.name, "namespace": deployment.metadata.namespace}
    for name in ("sidecars", "podTemplate"):
        manifest["spec"].pop(name, None)
    return manifest


# ------------------------------------------------------------------------------------------------ what runs in it


def _spec(deployment: ModelDeployment, options: PodOptions) -> Object:
    secrets = [{"name": name} for name in options.image_pull_secrets]
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": math.ceil(options.drain_timeout_s) + _GOODBYE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",  # a cache of a million files is not walked at every start
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": _cut_off_tolerations(),
        **({"imagePullSecrets": secrets} if secrets else {}),
        "containers": [_worker_container(deployment, options), *pod_sharing.sidecars(deployment)],
        "volumes": _volumes(deployment, options),
    }


def _worker_container(deployment: ModelDeployment, options: PodOptions) -> Object:
    runtime = deployment.spec.runtime
    return {
        "name": names.WORKER_CONTAINER,
        "image": runtime.image or options.image,
        "imagePullPolicy": options.image_pull_policy,
        "command": ["python", "-m", "modelmora_worker"],
        "args": ["--settings", f"{SETTINGS_FOLDER}/{SETTINGS_FILE}", *runtime.args],
        "env": _environment(deployment),
        **({"envFrom": list(runtime.env_from)} if runtime.env_from else {}),
        "ports": [
            {"name": "call", "containerPort": names.CALL_PORT},
            {"name": "health", "containerPort": names.HEALTH_PORT},
        ],
        "readinessProbe": {"grpc": {"port": names.HEALTH_PORT, "service": ""}, "periodSeconds": 1},
        "livenessProbe": {
            "grpc": {"port": names.HEALTH_PORT, "service": names.LIVENESS_SERVICE},
            "periodSeconds": _LIVENESS_S,
            "timeoutSeconds": _LIVENESS_S,
            "failureThreshold": _LIVENESS_FAILURES,
        },
        "resources": pod_resources.of(deployment),
        "securityContext": pod_sharing.unprivileged() | {"readOnlyRootFilesystem": True},
        "terminationMessagePath": _TERMINATION_MESSAGE,
        # A crash in C, or an image without our package, has no last words but in the log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(deployment),
    }


def _environment(deployment: ModelDeployment) -> list[Object]:
    """Where libraries may write, how many threads they may start, and the secret of the source; then the user's."""
    threads = {"containerName": names.WORKER_CONTAINER, "resource": "limits.cpu", "divisor": "1"}
    ours: list[Object] = [
        {"name": "HOME", "value": "/tmp"},  # noqa: S108 - a volume of the pod's own
        {"name": "XDG_CACHE_HOME", "value": "/tmp/.cache"},  # noqa: S108 - as above
        {"name": "USER", "value": "modelmora"},  # libraries ask who they are, and an image may not know our user
        {"name": "OMP_NUM_THREADS", "valueFrom": {"resourceFieldRef": threads}},  # else as many as the node has cores
    ]
    if (secret := deployment.spec.model.source.secret_ref) is not None:
        key = {"name": secret.name, "key": secret.key or _TOKEN_KEY, "optional": False}
        ours.append({"name": "MODELMORA_WORKER_SOURCE_TOKEN", "valueFrom": {"secretKeyRef": key}})
    theirs = [variable.manifest() for variable in deployment.spec.runtime.env]
    chosen = {variable["name"] for variable in theirs}
    return [*(variable for variable in ours if variable["name"] not in chosen), *theirs]


def _cut_off_tolerations() -> list[Object]:
    return [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": CUT_OFF_S} for key in _CUT_OFF
    ]


_CUT_OFF: Final = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


# ------------------------------------------------------------------------------------------------ its folders


def _volumes(deployment: ModelDeployment, options: PodOptions) -> list[Object]:
    annotation = {"fieldPath": f"metadata.annotations['{names.WORKER_SETTINGS}']"}
    volumes: list[Object] = [
        {"name": "settings", "downwardAPI": {"items": [{"path": SETTINGS_FILE, "fieldRef": annotation}]}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "files", "emptyDir": {}},
        _cache(deployment, options),
    ]
    if claim := _claim(deployment):
        volumes.append({"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    return [*volumes, *pod_sharing.volumes(deployment)]


def _mounts(deployment: ModelDeployment) -> list[Object]:
    mounts: list[Object] = [
        {"name": "settings", "mountPath": SETTINGS_FOLDER, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - as above
        {"name": "files", "mountPath": FILES},
        {"name": "cache", "mountPath": CACHE},
    ]
    if claim := _claim(deployment):
        mounts.append({"name": "model", "mountPath": f"{VOLUMES}/{claim}", "readOnly": True})
    return [*mounts, *pod_sharing.mounts(deployment)]


def _cache(deployment: ModelDeployment, options: PodOptions) -> Object:
    wanted = deployment.spec.cache
    if claim := wanted.claim_name or options.cache_claim_name:
        return {"name": "cache", "persistentVolumeClaim": {"claimName": claim}}
    limit = wanted.size_limit or options.cache_size_limit
    return {"name": "cache", "emptyDir": {"sizeLimit": limit} if limit else {}}


def _claim(deployment: ModelDeployment) -> str | None:
    """The claim that the model lies on. What cannot be understood is the worker's to tell: its image may be newer."""
    try:
        source = parse(deployment.spec.model.source.uri)
    except InvalidSource:
        return None
    return source.claim if isinstance(source, ClaimSource) else None


# ------------------------------------------------------------------------------------------------ the user's patch


def _patched(ours: Object, deployment: ModelDeployment) -> Object:
    template = deployment.spec.pod_template
    if template is None:
        return ours
    patch = {"metadata": template.metadata, "spec": template.spec}
    try:
        result = merged(ours, patch, path="spec.podTemplate")
    except PatchError as error:
        raise PodError(
            "InvalidPodTemplate", f"{error} (model {deployment.model_id})", f"correct {error.path}"
        ) from error
    if not any(container["name"] == names.WORKER_CONTAINER for container in result["spec"].get("containers") or []):
        raise PodError(
            "InvalidPodTemplate",
            f"spec.podTemplate of model {deployment.model_id} takes the container worker away",
            "keep it; what runs in it is spec.runtime.image",
        )
    return result


def _with_identity(patched: Object, ours: Object) -> Object:
    """What operator and router find the pod by, and what lets it move off a dead node, whatever the patch says."""
    metadata = {name: value for name, value in patched["metadata"].items() if name != "generateName"}
    for name in ("labels", "annotations"):
        metadata[name] = {**(metadata.get(name) or {}), **ours[name]}
    metadata |= {name: ours[name] for name in ("name", "namespace", "ownerReferences")}
    given = patched["spec"].get("tolerations") or []
    known = {toleration.get("key") for toleration in given if isinstance(toleration, Mapping)}
    missing = [toleration for toleration in _cut_off_tolerations() if toleration["key"] not in known]
    return {**patched, "metadata": metadata, "spec": {**patched["spec"], "tolerations": [*given, *missing]}}
