"""Pods as the cluster: what is seen, started and stopped, against an API server in memory."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from modelmora.control import Demand, Key
from modelmora.errors import ServerUnavailable
from modelmora.kube.api import DEPLOYMENTS, LEASES, PODS, KubeError
from modelmora.spec import ModelDeployment, ObjectMeta
from modelmora_operator.backends.announcements import Announcements
from modelmora_operator.backends.kubernetes import KubernetesCluster
from modelmora_operator.backends.lists import Lists
from modelmora_operator.backends.pods import PodOptions
from modelmora_operator.backends.writes import Writes
from modelmora_operator.backoff import Backoff
from modelmora_operator.cluster import Phase, Snapshot, WorkerSpec
from modelmora_operator.plan import Policy
from modelmora_operator.reconcile import Reconciler
from modelmora_operator.sharing import Rules
from tests.support.operator_api import FakeKube
from tests.support.operator_pods import lease, moment, running, terminated, waiting
from tests.support.operator_values import NOW, deployment, hash_of

KEY = Key("default", "minilm")
POLICY = Policy(initial_replicas=1, backoff=Backoff(first_s=10, cap_s=100, jitter=0))
QUOTA = KubeError(403, "Forbidden", "exceeded quota: q")


@dataclass
class Scene:
    """An API server, the operator's cluster and its lists, and a clock."""

    image: str = "modelmora/worker:1"
    kube: FakeKube = field(default_factory=FakeKube)
    now: float = NOW

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Another operator process."""
        writes = Writes(self.kube)
        self.announcements = Announcements(writes, clock=lambda: self.now)
        self.cluster = KubernetesCluster(
            writes,
            PodOptions(image=self.image, now=0.0),
            announcements=self.announcements,
            clock=lambda: self.now,
            chance=lambda: 0.0,
        )
        self.lists = Lists(self.kube, self.cluster.view, home="default", clock=lambda: self.now)
        self.reconciler = Reconciler(self.cluster, POLICY, clock=lambda: self.now)

    async def sync(self) -> None:
        """Everything is listed."""
        for resource in (DEPLOYMENTS, PODS, LEASES):
            assert await self.lists.read(resource)
        self.cluster.view.synced.set()

    async def settle(self, key: Key = KEY) -> float | None:
        """Lists and reconciles until nothing is written any more."""
        for _ in range(10):
            await self.sync()
            before = len(self.kube.writes)
            again = await self.reconciler.reconcile(key)
            if len(self.kube.writes) == before:
                return again
        raise AssertionError(f"it does not settle: {self.kube.writes}")

    async def seen(self, key: Key = KEY) -> Snapshot:
        await self.sync()
        snapshot = await self.cluster.observe(key)
        assert snapshot is not None
        return snapshot

    def pods(self) -> list[str]:
        return sorted(p["metadata"]["name"] for p in self.kube.of(PODS))

    def live(self) -> list[str]:
        found = [p["metadata"] for p in self.kube.of(PODS)]
        return sorted(one["name"] for one in found if "deletionTimestamp" not in one)

    def become(self, name: str, state: dict[str, Any], *, ready: bool = False, **more: Any) -> None:
        """What the kubelet reports of a pod."""
        container = {"name": "worker", "state": state, **more}
        before = (
            self.kube.objects["pods", "default", name].get("status", {}).get("conditions", [{"status": "False"}])[0]
        )
        turned = before.get("lastTransitionTime", moment(NOW)) if before.get("status") == str(ready) else None
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": turned or moment(self.now)}
        status = {"phase": "Running", "podIP": "", "conditions": [condition], "containerStatuses": [container]}
        self.kube.change(PODS, name, status=status)

    def condition(self, kind: str = "Ready", name: str = "minilm") -> tuple[str, str, str]:
        stored = ModelDeployment.stored(self.kube.objects["modeldeployments", "default", name])
        found = stored.status.condition(kind)
        return (str(found.status), found.reason, found.message) if found else ("", "", "")


@pytest.fixture
def scene() -> Scene:
    made = Scene()
    made.kube.put(LEASES, lease("router", NOW))
    made.kube.put_deployment(deployment())
    return made


NAME = f"minilm-{hash_of(deployment())}-0"
NEXT = f"minilm-{hash_of(deployment())}-1"


@pytest.mark.req("RM-4.1a")
async def test_a_new_model_gets_a_pod_and_its_status_says_how_it_is(scene: Scene) -> None:
    await scene.settle()
    assert scene.pods() == [NAME]
    assert scene.condition()[:2] == ("Unknown", "Unverified")
    scene.become(NAME, running(), ready=True)
    await scene.sync()
    await scene.reconciler.reconcile(KEY)
    assert scene.condition()[:2] == ("True", "Serving")
    await scene.settle()  # it has proved itself, and nobody wants it
    assert (scene.condition()[:2], scene.live()) == (("True", "ScaledToZero"), [])


async def test_a_watch_that_is_late_makes_no_second_pod(scene: Scene) -> None:
    await scene.sync()
    await scene.reconciler.reconcile(KEY)
    await scene.reconciler.reconcile(KEY)  # nobody has told of the pod but the answer to the write
    assert scene.kube.writes.count(("create", "Pod", NAME)) == 1


@pytest.mark.req("REQ-REL-002")
async def test_an_operator_that_is_restarted_takes_over_and_writes_nothing(scene: Scene) -> None:
    await scene.settle()
    scene.become(NAME, waiting("ImagePullBackOff", "no"))
    await scene.settle()
    writes = len(scene.kube.writes)
    scene.restart()
    await scene.settle()
    assert (scene.pods(), len(scene.kube.writes)) == ([NAME], writes)


async def test_a_pod_that_another_process_has_made_is_found_by_its_name(scene: Scene) -> None:
    await scene.sync()
    model = scene.cluster.view.deployment(KEY)
    assert isinstance(model, ModelDeployment)
    other = Scene(kube=scene.kube)
    await other.settle()
    assert not await scene.cluster.start(WorkerSpec(NAME, KEY, hash_of(model), model))
    assert [worker.worker_id for worker in (await scene.seen()).workers] == [NAME]


async def test_a_foreign_pod_of_that_name_is_told_and_left_alone(scene: Scene) -> None:
    scene.kube.put(PODS, {"metadata": {"name": NAME}, "spec": {}, "status": {}})
    await scene.sync()
    await scene.reconciler.reconcile(KEY)
    await scene.reconciler.reconcile(KEY)
    assert scene.condition()[1] == "NameTaken"
    assert scene.live() == [NAME]


@pytest.mark.req("REQ-LIFE-011")
async def test_a_refused_pod_is_told_and_tried_again_after_the_back_off(scene: Scene) -> None:
    with scene.kube.refusing("create", "Pod", QUOTA):
        again = await scene.settle()
        assert again == 10
        status, reason, message = scene.condition()
        assert (status, reason) == ("False", "QuotaExceeded")
        assert "exceeded quota: q" in message
        assert scene.condition("Scheduled")[:2] == ("False", "QuotaExceeded")
        tried = scene.kube.writes.count(("create", "Pod", NAME))
        await scene.settle()
        assert scene.kube.writes.count(("create", "Pod", NAME)) == tried
    scene.now += 11
    await scene.settle()
    assert scene.pods() == [NAME]


async def test_a_server_that_is_busy_is_no_verdict_on_the_model(scene: Scene) -> None:
    with scene.kube.refusing("create", "Pod", KubeError(503, "ServiceUnavailable", "later")):
        await scene.sync()
        with pytest.raises(KubeError):
            await scene.reconciler.reconcile(KEY)
    assert scene.condition() == ("", "", "")


async def test_nothing_is_said_while_the_namespace_ends(scene: Scene) -> None:
    words = "unable to create new content in namespace default because it is being terminated"
    await scene.sync()
    with scene.kube.refusing("create", "Pod", KubeError(403, "Forbidden", words)):
        assert [await scene.reconciler.reconcile(KEY) for _ in range(3)] == [None] * 3
    assert scene.condition()[:2] == ("Unknown", "Unverified")


async def test_a_model_that_cannot_be_a_pod_is_told(scene: Scene) -> None:
    scene.kube.put_deployment(deployment(gpu={"mode": "Shared", "memory": "1Gi"}))
    await scene.settle()
    assert scene.condition()[:2] == ("False", "FeatureUnavailable")
    assert scene.pods() == []


@pytest.mark.req("REQ-LIFE-011")
async def test_ready_does_not_waver_between_a_crash_and_the_next_attempt(scene: Scene) -> None:
    await scene.settle()
    end = terminated(7, started=NOW, finished=NOW + 5)
    steps: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (end, {}),
        (waiting("CrashLoopBackOff"), {"lastState": end, "restartCount": 1}),
        (running(NOW + 10), {"lastState": end, "restartCount": 1}),
    ]
    for state, more in steps:
        scene.become(NAME, state, **more)
        await scene.settle()
        assert scene.condition()[:2] == ("False", "WorkerCrashed")
    assert scene.pods() == [NAME]
    scene.now += 20
    scene.become(NAME, running(NOW + 10), ready=True, lastState=end, restartCount=1)
    snapshot = await scene.seen()
    assert snapshot.failure is not None
    assert snapshot.failure.healed


async def test_a_pod_that_goes_before_it_has_served_leaves_its_failure_behind(scene: Scene) -> None:
    await scene.settle()
    end = terminated(7, started=NOW, finished=NOW + 5)
    scene.now += 5
    scene.become(NAME, waiting("CrashLoopBackOff"), lastState=end, restartCount=3)
    await scene.settle()
    scene.kube.gone(PODS, NAME)
    assert await scene.settle() == 20  # as after a third failure without a word
    assert scene.condition()[:2] == ("False", "WorkerCrashed")


@pytest.mark.parametrize("reason", ["Evicted", "Terminated"])
async def test_a_pod_that_has_ended_is_deleted_counted_once_and_replaced(scene: Scene, reason: str) -> None:
    await scene.settle()
    scene.kube.change(PODS, NAME, status={"phase": "Failed", "reason": reason, "message": "the node was full"})
    await scene.settle()
    assert scene.live() == [NEXT]
    assert scene.kube.writes.count(("delete", "Pod", NAME)) == 1
    record = (await scene.seen()).failure
    assert record is not None
    assert (record.count, record.last.reason) == (1, reason)


async def test_an_end_is_counted_once_however_often_its_deletion_is_tried(scene: Scene) -> None:
    await scene.settle()
    scene.kube.change(PODS, NAME, status={"phase": "Failed", "reason": "Evicted"})
    await scene.sync()
    with scene.kube.refusing("delete", "Pod", KubeError(503, "ServiceUnavailable", "later")):
        for _ in range(2):
            with pytest.raises(KubeError):
                await scene.cluster.observe(KEY)
            scene.now += 1
    snapshot = await scene.cluster.observe(KEY)
    assert snapshot is not None
    assert snapshot.failure is not None
    assert (snapshot.failure.count, snapshot.failure.at) == (1, NOW)


async def test_the_progress_deadline_ends_a_pod_and_the_next_one_waits(scene: Scene) -> None:
    await scene.settle()
    scene.become(NAME, running(NOW + 1))
    assert await scene.settle() == 601
    scene.now += 601
    assert await scene.settle() == 10
    assert scene.live() == []
    assert scene.condition()[:2] == ("False", "ProgressDeadlineExceeded")
    assert scene.condition("Stalled")[0] == "True"
    scene.kube.gone(PODS, NAME)
    scene.now += 10
    await scene.settle()
    assert scene.live() == [NAME]


async def test_a_load_that_is_asked_for_replaces_a_worker_that_is_held_back(scene: Scene) -> None:
    await scene.settle()
    end = terminated(7, started=NOW, finished=NOW + 5)
    scene.become(NAME, waiting("CrashLoopBackOff"), lastState=end, restartCount=4)
    await scene.settle()
    assert scene.live() == [NAME]
    scene.kube.put(LEASES, lease("router", NOW, f'{{"default/minilm": [0, {NOW + 9}, {NOW + 9}]}}'))
    scene.now += 10
    await scene.settle()
    assert scene.live() == [NEXT]


async def test_pods_of_a_deleted_deployment_of_the_same_name_do_not_count(scene: Scene) -> None:
    await scene.settle()
    scene.become(NAME, running(), ready=True)
    again = deployment().manifest()
    scene.kube.put(DEPLOYMENTS, {**again, "metadata": {**again["metadata"], "uid": "another"}})
    await scene.settle()
    assert scene.pods() == [NAME, NEXT]


async def test_a_deployment_that_is_being_deleted_has_no_worker(scene: Scene) -> None:
    await scene.settle()
    stored = scene.kube.objects["modeldeployments", "default", "minilm"]
    scene.kube.put(DEPLOYMENTS, {**stored, "metadata": {**stored["metadata"], "deletionTimestamp": moment(NOW)}})
    await scene.settle()
    assert scene.live() == []


async def test_a_status_is_not_written_to_another_object_of_the_same_name(scene: Scene) -> None:
    await scene.settle()
    stored = scene.kube.objects["modeldeployments", "default", "minilm"]
    scene.kube.put(DEPLOYMENTS, {**stored, "status": {}, "metadata": {**stored["metadata"], "uid": "another"}})
    scene.become(NAME, waiting("ErrImagePull"))
    scene.cluster.view.pods.put(scene.kube.objects["pods", "default", NAME])
    await scene.reconciler.reconcile(KEY)  # it has not heard of the new object
    assert scene.condition() == ("", "", "")


async def test_an_object_that_cannot_be_read_is_told_once_and_its_pods_run_on(scene: Scene) -> None:
    await scene.settle()
    stored = scene.kube.objects["modeldeployments", "default", "minilm"]
    scene.kube.change(DEPLOYMENTS, "minilm", spec={**stored["spec"], "scaling": {"maxReplicas": "many"}})
    assert await scene.settle() is None
    conditions = scene.kube.objects["modeldeployments", "default", "minilm"]["status"]["conditions"]
    assert [(one["type"], one["reason"]) for one in conditions] == [
        ("Ready", "InvalidSpec"),
        ("Stalled", "InvalidSpec"),
    ]
    assert scene.live() == [NAME]


@pytest.mark.req("REQ-DEPLOY-004")
async def test_a_new_default_image_rolls_one_model_after_the_other(scene: Scene) -> None:
    second = deployment("second", model={"id": "org/second"})
    scene.kube.put_deployment(second)
    keys = (KEY, Key("default", "second"))
    other = f"second-{hash_of(second)}-0"
    demand = '{"default/minilm": [1, 0, 0], "default/second": [1, 0, 0]}'
    scene.kube.put(LEASES, lease("router", NOW, demand))
    for key in keys:
        await scene.settle(key)
    for name in (NAME, other):
        scene.become(name, running(), ready=True)
    scene.image = "modelmora/worker:2"
    scene.restart()
    for key in reversed(keys):
        await scene.settle(key)
    assert scene.live() == sorted([NAME, NEXT, other])
    scene.become(NEXT, running(), ready=True)
    for key in keys:
        await scene.settle(key)
    assert scene.live() == sorted([NEXT, other, other.replace("-0", "-1")])


async def two_of_an_older_image(scene: Scene) -> tuple[Key, str]:
    """KEY and the answer's serve with the default image of before; the answer is a key and the name of its pod."""
    second = deployment("second", model={"id": "org/second"})
    scene.kube.put_deployment(second)
    wanted = '{"default/minilm": [1, 0, 0], "default/second": [1, 0, 0]}'
    scene.kube.put(LEASES, lease("router", NOW, wanted))
    other = Key("default", "second")
    for key, name in ((KEY, NAME), (other, f"second-{hash_of(second)}-0")):
        await scene.settle(key)
        scene.become(name, running(), ready=True)
    scene.image = "modelmora/worker:2"
    await restart_with_pods_first(scene)
    return other, f"second-{hash_of(second)}-0"


async def restart_with_pods_first(scene: Scene) -> None:
    """Another operator, which reads the pods before it knows of any deployment."""
    scene.restart()
    for resource in (PODS, DEPLOYMENTS, LEASES):
        assert await scene.lists.read(resource)
    scene.cluster.view.synced.set()


@pytest.mark.req("REQ-DEPLOY-004")
async def test_the_turn_does_not_move_while_the_first_new_pod_is_being_made(scene: Scene) -> None:
    other, _ = await two_of_an_older_image(scene)
    snapshots = [await scene.cluster.observe(key) for key in (other, KEY)]  # by two workers at once: no pod made yet
    turns = [snapshot.workers[0].superseded for snapshot in snapshots if snapshot]
    assert turns == [True, False]


@pytest.mark.req("REQ-DEPLOY-004")
async def test_a_restart_in_the_middle_of_a_roll_goes_on_with_the_same_model(scene: Scene) -> None:
    other, name = await two_of_an_older_image(scene)
    await scene.settle(other)
    assert scene.live() == sorted([NAME, name, name.replace("-0", "-1")])
    await restart_with_pods_first(scene)
    await anext(scene.cluster.changes())
    snapshot = await scene.cluster.observe(KEY)  # looked at first, and it must wait
    assert snapshot is not None
    assert not snapshot.workers[0].superseded


async def test_events_are_written_once(scene: Scene) -> None:
    await scene.settle()
    for _ in range(2):
        scene.become(NAME, waiting("ErrImagePull", "no such image"))
        await scene.settle()
        scene.become(NAME, running())
        await scene.settle()
    told = [scene.announcements._waiting.get_nowait()[1] for _ in range(scene.announcements._waiting.qsize())]
    assert [news.reason for news in told] == ["ImagePullFailed"]


async def test_while_no_router_lives_nothing_is_scaled_down(scene: Scene) -> None:
    scene.kube.put(LEASES, lease("router", NOW, '{"default/minilm": [1, 0, 0]}'))
    await scene.settle()
    scene.become(NAME, running(), ready=True)
    scene.kube.gone(LEASES, "router")
    await scene.settle()
    assert scene.live() == [NAME]
    scene.kube.put(LEASES, lease("router", NOW))
    await scene.settle()
    assert scene.live() == []


async def test_an_api_that_is_gone_leaves_everything_as_it_was(scene: Scene) -> None:
    scene.kube.put(LEASES, lease("router", NOW, '{"default/minilm": [1, 0, 0]}'))
    await scene.settle()
    with scene.kube.refusing("list", "Lease", ServerUnavailable("gone")):
        for _ in range(20):
            scene.now += 3
            assert not await scene.lists.read(LEASES)
    snapshot = await scene.cluster.observe(KEY)
    assert snapshot is not None
    assert (snapshot.demand, snapshot.routers_alive) == (Demand(1, 0), True)
    assert scene.lists.readings[LEASES].unreachable_since is not None


async def test_a_namespace_that_is_refused_is_left_alone_and_disturbs_no_other(scene: Scene) -> None:
    scene.lists = Lists(
        scene.kube, scene.cluster.view, home="default", namespaces=("default", "doomed"), clock=lambda: scene.now
    )
    doomed = deployment("doomed")
    scene.kube.put_deployment(doomed.model_copy(update={"metadata": _in("doomed", doomed)}))
    await scene.sync()
    assert Key("doomed", "doomed") in scene.cluster.known_keys()
    scene.kube.closed["doomed"] = KubeError(403, "Forbidden", 'cannot list resource "pods" in the namespace "doomed"')
    await scene.settle()
    assert scene.cluster.known_keys() == {KEY}
    assert '"doomed"' in scene.lists.readings[DEPLOYMENTS].problem
    assert scene.lists.readable.value == ("default",)
    scene.kube.closed.clear()
    await scene.sync()
    assert Key("doomed", "doomed") in scene.cluster.known_keys()
    assert scene.lists.readings[DEPLOYMENTS].problem == ""


@pytest.mark.parametrize("by", ["watch", "list", "a restart"])
async def test_a_pod_whose_labels_were_taken_away_is_deleted_and_replaced(scene: Scene, by: str) -> None:
    scene.kube.put_deployment(deployment(scaling={"minReplicas": 1}))
    await scene.settle()
    scene.become(NAME, running(), ready=True)
    await scene.settle()
    edited = scene.kube.change(PODS, NAME, metadata={**scene.kube.of(PODS)[0]["metadata"], "labels": {}})
    if by == "watch":  # one by labels says that it is gone
        scene.cluster.view.heard(PODS, "DELETED", edited, scene.now)
    elif by == "a restart":
        scene.restart()
        await scene.sync()
    else:
        await scene.sync()
    await scene.reconciler.reconcile(KEY)
    assert scene.live() == []
    scene.kube.gone(PODS, NAME)
    await scene.reconciler.reconcile(KEY)
    assert scene.live() == [NAME]
    assert scene.kube.writes.count(("delete", "Pod", NAME)) == 1


async def test_a_pod_that_was_deleted_by_force_is_replaced_at_once(scene: Scene) -> None:
    scene.kube.put_deployment(deployment(scaling={"minReplicas": 1}))
    await scene.settle()
    gone = scene.kube.gone(PODS, NAME)
    scene.cluster.view.heard(PODS, "DELETED", gone, scene.now)
    await scene.reconciler.reconcile(KEY)
    assert scene.live() == [NAME]
    assert ("delete", "Pod", NAME) not in scene.kube.writes


async def test_a_missing_definition_is_told_and_its_objects_go_with_it_after_a_while(scene: Scene) -> None:
    await scene.settle()
    missing = KubeError(404, "NotFound", "the server could not find the requested resource")
    with scene.kube.refusing("list", "ModelDeployment", missing):
        assert not await scene.lists.read(DEPLOYMENTS)
        assert "apply the definitions" in scene.lists.readings[DEPLOYMENTS].problem
        assert (await scene.cluster.observe(KEY)) is not None
        assert scene.cluster.view.deployment(KEY) is not None
        scene.now += 31
        assert not await scene.lists.read(DEPLOYMENTS)
    assert scene.cluster.view.deployment(KEY) is None
    await scene.reconciler.reconcile(KEY)
    assert scene.live() == []


async def test_what_no_watch_told_is_mended_by_the_next_list(scene: Scene) -> None:
    await scene.settle()
    scene.kube.gone(PODS, NAME)
    scene.kube.gone(DEPLOYMENTS, "minilm")
    await scene.sync()
    assert await scene.cluster.observe(KEY) is None
    assert list(scene.cluster.known_keys()) == []
    assert scene.lists.mended == 2


def _two_namespaces(scene: Scene) -> Key:
    scene.lists = Lists(
        scene.kube, scene.cluster.view, home="default", namespaces=("default", "other"), clock=lambda: scene.now
    )
    there = deployment("there", scaling={"minReplicas": 1})
    scene.kube.put_deployment(there.model_copy(update={"metadata": _in("other", there)}))
    return Key("other", "there")


@pytest.mark.req("REQ-REL-002")
async def test_pods_of_which_no_deployments_can_be_listed_are_no_orphans(scene: Scene) -> None:
    key = _two_namespaces(scene)
    await scene.settle(key)
    pod = next(one for one in scene.kube.of(PODS) if one["metadata"]["namespace"] == "other")["metadata"]["name"]
    scene.kube.closed["other"] = KubeError(403, "Forbidden", "RBAC: not read yet")
    assert await scene.lists.read(DEPLOYMENTS)
    scene.kube.closed.clear()  # a moment later, as with an API server that has just started
    assert await scene.lists.read(PODS)
    await scene.reconciler.reconcile(key)
    assert pod in scene.live()


async def test_a_namespace_that_is_opened_again_is_left_alone_until_its_pods_are_known(scene: Scene) -> None:
    key = _two_namespaces(scene)
    await scene.settle(key)
    writes = len(scene.kube.writes)
    scene.kube.closed["other"] = KubeError(403, "Forbidden", "no")
    assert all([await scene.lists.read(DEPLOYMENTS), await scene.lists.read(PODS)])
    scene.kube.closed.clear()
    assert await scene.lists.read(DEPLOYMENTS)
    await scene.reconciler.reconcile(key)
    await scene.settle(key)
    assert len(scene.kube.writes) == writes
    assert scene.lists.readable.value == ("default", "other")


async def test_a_namespace_of_which_only_pods_are_refused_is_not_watched_either(scene: Scene) -> None:
    key = _two_namespaces(scene)
    await scene.settle(key)
    assert await scene.lists.read(DEPLOYMENTS)
    scene.kube.closed["other"] = KubeError(403, "Forbidden", "no")
    assert await scene.lists.read(PODS)
    assert scene.lists.readable.value == ("default",)
    assert scene.cluster.known_keys() == {KEY}


async def test_a_definition_that_was_missing_before_and_after_an_outage_is_not_lost(scene: Scene) -> None:
    await scene.settle()
    missing = KubeError(404, "NotFound", "the server could not find the requested resource")
    for error in (missing, ServerUnavailable("gone"), missing):
        with scene.kube.refusing("list", "ModelDeployment", error):
            assert not await scene.lists.read(DEPLOYMENTS)
        scene.now += 20
    assert scene.cluster.view.deployment(KEY) is not None


async def test_a_pod_whose_container_never_starts_is_told_after_the_deadline_and_left_to_the_kubelet(
    scene: Scene,
) -> None:
    await scene.settle()
    scene.become(NAME, waiting("ContainerCreating"))
    assert await scene.settle() == 600
    scene.now += 600
    assert await scene.settle() is None
    status, reason, message = scene.condition()
    assert (status, reason) == ("False", "ProgressDeadlineExceeded")
    assert "has not begun to run within 600 s" in message
    assert scene.live() == [NAME]
    writes = len(scene.kube.writes)
    scene.now += 600
    await scene.settle()
    assert len(scene.kube.writes) == writes
    scene.become(NAME, running(scene.now), ready=True)
    await scene.sync()
    await scene.reconciler.reconcile(KEY)
    assert scene.condition()[:2] == ("True", "Serving")


async def test_a_pod_that_had_served_for_long_begins_the_count_anew_when_it_is_evicted(scene: Scene) -> None:
    scene.kube.put_deployment(deployment(scaling={"minReplicas": 1}))
    await scene.settle()
    for name in (NAME, NEXT, NAME):
        scene.now += 10
        started = scene.now
        metadata = scene.kube.objects["pods", "default", name]["metadata"]
        scene.kube.change(PODS, name, metadata={**metadata, "creationTimestamp": moment(started)})
        scene.become(name, running(started), ready=True)
        await scene.settle()
        scene.now += 3600
        scene.become(name, terminated(137, started=started, finished=scene.now))
        scene.kube.change(
            PODS, name, status={**scene.kube.objects["pods", "default", name]["status"], "phase": "Failed"}
        )
        await scene.settle()
        scene.kube.gone(PODS, name)
    record = (await scene.seen()).failure
    assert record is not None
    assert record.count == 1


async def test_a_load_that_is_asked_for_by_a_clock_that_is_ahead_is_news_once(scene: Scene) -> None:
    with scene.kube.refusing("create", "Pod", QUOTA):
        await scene.settle()
        ahead = NOW + 3600
        scene.kube.put(LEASES, lease("router", NOW, f'{{"default/minilm": [0, {ahead}, {ahead}]}}'))
        scene.now += 1
        tried = scene.kube.writes.count(("create", "Pod", NAME))
        await scene.sync()
        for _ in range(5):
            await scene.reconciler.reconcile(KEY)
            scene.now += 0.1
        assert scene.kube.writes.count(("create", "Pod", NAME)) == tried + 1


@pytest.mark.parametrize("error", [KubeError(401, "Unauthorized", "Unauthorized"), KubeError(409, "Conflict", "later")])
async def test_what_says_nothing_of_the_pod_is_no_verdict(scene: Scene, error: KubeError) -> None:
    with scene.kube.refusing("create", "Pod", error):
        await scene.sync()
        with pytest.raises(KubeError):
            await scene.reconciler.reconcile(KEY)
    assert scene.condition() == ("", "", "")


async def test_a_status_that_met_another_write_is_written_again(scene: Scene) -> None:
    conflict = KubeError(409, "Conflict", "the object has been modified; please apply your changes to the latest")
    await scene.sync()
    with scene.kube.refusing("apply", "ModelDeployment", conflict), pytest.raises(KubeError):  # so the queue retries
        await scene.reconciler.reconcile(KEY)


async def test_an_older_image_is_noticed_of_a_deployment_that_is_read_after_its_pods(scene: Scene) -> None:
    scene.kube.put(LEASES, lease("router", NOW, '{"default/minilm": [1, 0, 0]}'))
    await scene.settle()
    scene.become(NAME, running(), ready=True)
    scene.image = "modelmora/worker:2"
    await restart_with_pods_first(scene)
    await scene.reconciler.reconcile(KEY)
    assert scene.live() == [NAME, NEXT]


async def test_a_pod_that_goes_while_another_is_deleted_leaves_nothing_behind(scene: Scene) -> None:
    scene.kube.put_deployment(deployment(scaling={"minReplicas": 2, "maxReplicas": 2}))
    await scene.settle()
    for name in (NAME, NEXT):
        scene.kube.change(PODS, name, status={"phase": "Failed", "reason": "Evicted"})
    await scene.sync()
    deleted = scene.kube.delete

    async def delete(*arguments: Any, **options: Any) -> Any:
        gone = scene.kube.gone(PODS, NEXT) if ("pods", "default", NEXT) in scene.kube.objects else None
        if gone:
            scene.cluster.view.heard(PODS, "DELETED", gone, 0.0)
        return await deleted(*arguments, **options)

    scene.kube.delete = delete  # type: ignore[method-assign]
    await scene.cluster.observe(KEY)
    assert len(list(scene.cluster.phases())) == 1


async def test_a_phase_is_known_for_each_pod(scene: Scene) -> None:
    await scene.settle()
    assert list(scene.cluster.phases()) == [Phase.STARTING]


def _in(namespace: str, one: ModelDeployment) -> ObjectMeta:
    return one.metadata.model_copy(update={"namespace": namespace})


@pytest.mark.req("REQ-QUEUE-002", "RM-2.1b")
async def test_no_more_pods_are_made_than_may_be_and_the_more_urgent_model_takes_the_place(scene: Scene) -> None:
    scene.kube.gone(DEPLOYMENTS, "minilm")
    keys = [Key("default", name) for name in "abc"]
    for key in keys:
        quick = deployment(key.name, model={"id": key.name}, eviction={"minResidencySeconds": 0})
        scene.kube.put_deployment(quick)
    policy = replace(POLICY, initial_replicas=0, sharing=Rules(max_workers=2))
    scene.reconciler = Reconciler(scene.cluster, policy, clock=lambda: scene.now)

    async def all_settled() -> list[str]:
        for _ in range(3):
            for key in keys:
                await scene.settle(key)
        return [name.split("-")[0] for name in scene.live()]

    def wanted(**urgencies: int) -> None:
        entries = ",".join(f'"default/{name}": [1, 0, 0, {urgency}, 0]' for name, urgency in urgencies.items())
        scene.kube.put(LEASES, lease("router", scene.now, f"{{{entries}}}"))

    wanted(a=3, b=4, c=4)
    assert await all_settled() == ["a", "b"]
    for name in scene.live():
        scene.become(name, running(), ready=True)
    assert await all_settled() == ["a", "b"]
    scene.now += 5
    wanted(a=3, b=4, c=1)
    assert await all_settled() == ["a"]
    (ending,) = set(scene.pods()) - set(scene.live())  # while it drains, it still has its place
    scene.kube.gone(PODS, ending)
    assert await all_settled() == ["a", "c"]
    assert scene.condition("Scheduled", "b")[1] == "WaitingForRoom"
