"""The end of all workers: nothing is left that an operator, which is about to end itself, has started meanwhile."""

from typing import Any

from modelmora.kube.api import PODS, Listed, Object, Resource
from modelmora_operator.stop_workers import stop_workers
from tests.support.operator_api import FakeKube
from tests.support.operator_pods import pod

OPERATORS = Resource("deployments", "Deployment", group="apps")


class Cluster(FakeKube):
    """Pods are gone at once; the operator, whose Deployment is gone, starts one more after so many lists."""

    def __init__(self, late_after: int = 0) -> None:
        super().__init__()
        self.lists_until_late = late_after

    async def list(self, resource: Resource, namespace: str | None = None, *, selector: str = "") -> Listed:
        self.lists_until_late -= 1
        if self.lists_until_late == 0:
            self.put(PODS, pod("late"))
        return await super().list(resource, namespace, selector=selector)

    async def delete(self, resource: Resource, namespace: str, name: str, **options: Any) -> Object | None:
        await super().delete(resource, namespace, name, **options)
        return self.objects.pop((resource.plural, namespace, name), None)


async def stop(kube: FakeKube, **options: Any) -> bool:
    wanted = {"home": "default", "operator": "operator", "timeout_s": 10.0, "quiet_s": 0.5, **options}
    return await stop_workers(kube, (), **wanted)


async def test_the_operator_goes_first_and_then_all_workers() -> None:
    kube = Cluster()
    kube.put(OPERATORS, {"metadata": {"name": "operator"}})
    kube.put(PODS, pod("worker"))
    assert await stop(kube)
    assert [name for verb, _, name in kube.writes if verb == "delete"] == ["operator", "worker"]
    assert kube.objects == {}


async def test_a_worker_that_is_started_after_the_last_one_was_gone_is_ended_too() -> None:
    kube = Cluster(late_after=2)
    assert await stop(kube)
    assert kube.objects == {}
    assert ("delete", "Pod", "late") in kube.writes


async def test_workers_that_do_not_end_in_time_are_told() -> None:
    kube = FakeKube()  # whose pods end for ever
    kube.put(PODS, pod("worker"))
    assert not await stop(kube, timeout_s=0.05)
