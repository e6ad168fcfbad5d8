"""The containers beside a worker, and what lets them find it and share memory with it. Pure.

The worker listens at a socket in a volume of its own, which they mount read-only: one may call there, but not put a
socket of its own in the place. Tensors lie in a volume in memory, in files without names, which the worker and their
owner alone have; each container is another user, so that none can look into the processes of the others.

The kernel charges a page of that volume to the memory limit of the container that touched it first. That is the sender,
for what it sends and for the answers, which it makes room for; so whoever sets a limit for a sidecar counts that in.
The pod as a whole needs it once: it stands in the request of the worker, see pod_resources.
"""

from collections.abc import Mapping
from typing import Any, Final

from modelmora.kube import names
from modelmora.spec import ModelDeployment, quantity_value
from modelmora_operator.backends.pod_error import PodError

SOCKET_FOLDER: Final = "/run/modelmora"
SOCKET: Final = f"{SOCKET_FOLDER}/model.sock"
SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - a volume of the pod's own

_FIRST_USER: Final = 65600  # of the sidecars, which count up from here; the worker is 65532, and 65534 is nobody
_FOR_EVERYBODY: Final = 0o666  # in a folder that only the pod's containers see
_ROOM_FOR_SOCKETS: Final = "1Mi"

Object = dict[str, Any]


def settings(deployment: ModelDeployment) -> Object:
    """What the worker is told, by the names of its settings. Without shared memory, tensors come as bytes."""
    if not _is_met(deployment):
        return {}
    shared = deployment.spec.shared_memory
    return {
        "client_socket": SOCKET,
        "client_socket_mode": _FOR_EVERYBODY,
        "session_quota_bytes": int(quantity_value(shared.session_quota)) if shared else 0,
    }


def volumes(deployment: ModelDeployment) -> list[Object]:
    """Of the pod."""
    made: list[Object] = []
    if _is_met(deployment):
        made.append({"name": "socket", "emptyDir": {"medium": "Memory", "sizeLimit": _ROOM_FOR_SOCKETS}})
    if (shared := deployment.spec.shared_memory) is not None:
        made.append({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": shared.size_limit}})
    return made


def mounts(deployment: ModelDeployment, *, read_only_socket: bool = False) -> list[Object]:
    """Of the worker; of those beside it, with a socket that they cannot replace."""
    made: list[Object] = []
    if _is_met(deployment):
        made.append({"name": "socket", "mountPath": SOCKET_FOLDER} | ({"readOnly": True} if read_only_socket else {}))
    if deployment.spec.shared_memory is not None:
        made.append({"name": "shared-memory", "mountPath": SHARED_MEMORY})
    return made


def sidecars(deployment: ModelDeployment) -> list[Object]:
    """The user's containers, which may do no more than ours unless they say so.

    Raises:
        PodError: one of them cannot be.
    """
    return [_sidecar(deployment, index) for index in range(len(deployment.spec.sidecars))]


def unprivileged() -> Object:
    """The security context that every container begins with."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _is_met(deployment: ModelDeployment) -> bool:
    """Somebody may call at the socket: a sidecar, or a container that a template adds to share memory."""
    return bool(deployment.spec.sidecars) or deployment.spec.shared_memory is not None


def _sidecar(deployment: ModelDeployment, index: int) -> Object:
    sidecar = deployment.spec.sidecars[index]
    if sidecar["name"] == names.WORKER_CONTAINER:
        raise PodError(
            "InvalidSidecar",
            f"a sidecar of model {deployment.model_id} has the name of the worker's own container, worker",
            "give it another name in spec.sidecars",
        )
    context = sidecar.get("securityContext") or {}
    if not isinstance(context, Mapping):
        raise _unfit(deployment, "securityContext", "a map")
    return {
        **sidecar,
        "env": _added(deployment, sidecar, "env", "name", _variables(deployment)),
        "volumeMounts": _added(
            deployment, sidecar, "volumeMounts", "mountPath", mounts(deployment, read_only_socket=True)
        ),
        "securityContext": {**unprivileged(), "runAsUser": _FIRST_USER + index, **context},
    }


def _variables(deployment: ModelDeployment) -> list[Object]:
    found = [{"name": "MODELMORA_SOCKET", "value": SOCKET}]
    if deployment.spec.shared_memory is not None:
        found.append({"name": "MODELMORA_SHARED_MEMORY_DIR", "value": SHARED_MEMORY})
    return found


def _added(
    deployment: ModelDeployment, sidecar: Mapping[str, Any], field: str, key: str, ours: list[Object]
) -> list[Any]:
    """Ours, but for what the user has said; then the user's, which may refer to ours."""
    theirs = sidecar.get(field) or []
    if not isinstance(theirs, list) or not all(isinstance(item, Mapping) for item in theirs):
        raise _unfit(deployment, field, "a list of maps")
    said = {item.get(key) for item in theirs}
    return [*(item for item in ours if item[key] not in said), *theirs]


def _unfit(deployment: ModelDeployment, field: str, kind: str) -> PodError:
    path = f"spec.sidecars[].{field}"
    return PodError("InvalidSidecar", f"{path} of model {deployment.model_id} must be {kind}", f"correct {path}")
