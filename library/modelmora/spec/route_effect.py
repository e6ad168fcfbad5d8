"""What a ModelRoute comes to with the deployments that there are: pure, and the same for operator and router.

A backend that cannot answer has the effective weight 0: the others share its requests by their weights. Whether it can
is what its status says; a model at zero can, since a request wakes it. One that was rolled back has the weight 0 until
the route is edited.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from modelmora.spec.deployment import ModelDeployment
from modelmora.spec.route import ModelRoute, RolledBack
from modelmora.spec.status import ModelState


class Defect(StrEnum):
    """Why a backend or a mirror cannot answer."""

    MISSING = "BackendMissing"
    WRONG_MODEL = "WrongModel"
    DUPLICATE = "DuplicateVersion"
    ROLLED_BACK = "RolledBack"
    SUSPENDED = "Suspended"
    FAILED = "FailedToLoad"

    @property
    def lasting(self) -> bool:
        """Only an edit heals it."""
        return self in {Defect.MISSING, Defect.WRONG_MODEL, Defect.DUPLICATE, Defect.ROLLED_BACK}


@dataclass(frozen=True, slots=True)
class Arm:
    """One backend, or the mirror with its percentage as the weight."""

    name: str
    weight: int  # as it was written
    deployment: ModelDeployment | None  # None: there is none that could ever answer
    defect: Defect | None = None
    words: str = ""  # what is wrong and what to do

    @property
    def effective(self) -> int:
        """Its weight among those that can answer."""
        return 0 if self.defect else self.weight


@dataclass(frozen=True, slots=True)
class Effect:
    """A route with what it names looked up."""

    route: ModelRoute
    arms: tuple[Arm, ...]
    mirror: Arm | None

    @property
    def answered(self) -> bool:
        """Whether any backend can answer."""
        return any(arm.effective for arm in self.arms)

    @property
    def defects(self) -> tuple[Arm, ...]:
        """The backends that should answer and cannot."""
        return tuple(arm for arm in self.arms if arm.weight and arm.defect)


def effect(
    route: ModelRoute, deployments: Mapping[str, ModelDeployment], duplicates: Collection[str] = frozenset()
) -> Effect:
    """Of a route among the deployments of its namespace, by name; in place of the `duplicates` an older one serves."""
    spec, look = route.spec, _Look(route, deployments, duplicates, route.rolled_back)
    return Effect(
        route,
        tuple(look.arm(backend.name, backend.weight, model_id=spec.model_id) for backend in spec.backends),
        look.arm(spec.mirror.name, spec.mirror.percent) if spec.mirror else None,
    )


def effects(
    routes: Iterable[ModelRoute], deployments: Iterable[ModelDeployment]
) -> Iterator[tuple[Effect, ModelRoute]]:
    """Each route with what it comes to, and the one that counts for its model: of several the oldest."""
    rivals: dict[tuple[str, str], list[ModelRoute]] = {}
    near: dict[str, dict[str, ModelDeployment]] = {}
    for route in routes:
        rivals.setdefault((route.metadata.namespace, route.spec.model_id), []).append(route)
        near[route.metadata.namespace] = {}
    for deployment in deployments:
        if (named := near.get(deployment.metadata.namespace)) is not None:
            named[deployment.metadata.name] = deployment
    younger = {namespace: _duplicates_of(named.values()) for namespace, named in near.items()}
    for (namespace, _), same in rivals.items():
        counts = min(same, key=lambda route: route.metadata.seniority)
        for route in same:
            yield effect(route, near[namespace], younger[namespace]), counts


def _duplicates_of(deployments: Iterable[ModelDeployment]) -> frozenset[str]:
    """Names of those, of one namespace, in whose place an older one of the same model and version serves."""
    serving: dict[tuple[str, str], ModelDeployment] = {}
    younger = set()
    for deployment in sorted(deployments, key=lambda one: one.metadata.seniority):
        first = serving.setdefault((deployment.model_id, deployment.version), deployment)
        if first is not deployment:
            younger.add(deployment.metadata.name)
    return frozenset(younger)


@dataclass(frozen=True, slots=True)
class _Look:
    """Where the names of a route are looked up."""

    route: ModelRoute
    deployments: Mapping[str, ModelDeployment]
    duplicates: Collection[str]
    fallen: Mapping[str, RolledBack]

    def arm(self, name: str, weight: int, *, model_id: str = "") -> Arm:
        """`model_id`: it must serve this one; a mirror may be of another model."""
        deployment = self.deployments.get(name)
        if deployment is None or deployment.metadata.deletion_timestamp is not None:
            words = f"there is no ModelDeployment {name!r} in namespace {self.route.metadata.namespace!r}"
            return Arm(name, weight, None, Defect.MISSING, f"{words}: deploy it, or take it off the route")
        if model_id and deployment.model_id != model_id:
            words = f"{name!r} serves model {deployment.model_id!r}, not {model_id!r}: name one that does"
            return Arm(name, weight, None, Defect.WRONG_MODEL, words)
        if name in self.duplicates:
            words = f"an older deployment serves {deployment.model_id}@{deployment.version} in place of {name!r}"
            return Arm(name, weight, None, Defect.DUPLICATE, f"{words}: name that one")
        if model_id and (fallen := self.fallen.get(name)):
            return Arm(name, weight, deployment, Defect.ROLLED_BACK, rollback_words(fallen))
        return _told(name, weight, deployment)


def _told(name: str, weight: int, deployment: ModelDeployment) -> Arm:
    """By what its own spec and status say."""
    if deployment.spec.suspend:
        words = f"{name!r} is suspended: set its spec.suspend to false"
        return Arm(name, weight, deployment, Defect.SUSPENDED, words)
    if has_failed(deployment):
        return Arm(name, weight, deployment, Defect.FAILED, _failure(deployment))
    return Arm(name, weight, deployment)


def rollback_words(of: RolledBack) -> str:
    """What a person is told of a backend that was rolled back."""
    return f"canary {of.name}: {of.message}: it gets none until the route is edited"


def has_failed(deployment: ModelDeployment) -> bool:
    """Whether the last load of its present spec failed; a failure of an older one says nothing about this one."""
    status = deployment.status
    return status.state is ModelState.FAILED_TO_LOAD and status.observed_generation >= deployment.metadata.generation


def _failure(deployment: ModelDeployment) -> str:
    failure = deployment.status.last_failure
    why = failure.message if failure else "the reason is not known yet"
    return f"{deployment.metadata.name!r} cannot be loaded: {why}"
