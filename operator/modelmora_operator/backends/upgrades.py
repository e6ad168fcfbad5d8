"""Which workers were made with an older default image, and whether it is their deployment's turn to replace them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelmora.control import Key
from modelmora.kube import names
from modelmora.spec import ModelDeployment
from modelmora_operator.backends.pod_error import PodError
from modelmora_operator.backends.pods import PodOptions, pod
from modelmora_operator.cluster import WorkerSpec
from modelmora_operator.turns import next_turn

Pod = Mapping[str, Any]


class Upgrades:
    """Told of every change of pods; the order of turns is `turns.next_turn`."""

    def __init__(self, options: PodOptions) -> None:
        self._options = options
        self._old: dict[Key, frozenset[str]] = {}
        self._begun: dict[Key, bool] = {}
        self._turn: Key | None = None

    def supersedes(self, key: Key, worker_id: str) -> bool:
        """The worker is old, and it is its deployment's turn."""
        return key == self._turn and worker_id in self._old.get(key, ())

    def look(self, key: Key, deployment: ModelDeployment | None, pods: Mapping[str, Pod]) -> Key | None:
        """After a change; the answer is the deployment that has the turn from now on, None: the turn did not move."""
        live = {name: one for name, one in pods.items() if "deletionTimestamp" not in one["metadata"]}
        old = frozenset(name for name, one in live.items() if deployment and self._is_old(key, deployment, one))
        if old:
            self._old[key], self._begun[key] = old, len(old) < len(live)
        else:
            self._old.pop(key, None)
            self._begun.pop(key, None)
        before, self._turn = self._turn, next_turn(self._begun, self._turn)
        return self._turn if self._turn != before else None

    def _is_old(self, key: Key, deployment: ModelDeployment, one: Pod) -> bool:
        image = _image(one)
        if image in {"", self._options.image} or deployment.spec.runtime.image is not None:
            return False
        if deployment.spec.pod_template is None:
            return True
        try:
            made_now = pod(WorkerSpec("any", key, "", deployment), replace(self._options, now=0.0))
        except PodError:
            return False
        return _image(made_now) != image  # a pod template may name the image too


def _image(one: Pod) -> str:
    containers = one["spec"].get("containers") or ()
    return next((str(c.get("image") or "") for c in containers if c.get("name") == names.WORKER_CONTAINER), "")
