"""Models that wake, sleep, fail and come back; workers that end well and badly."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from modelmora import errors
from modelmora.control import Key
from modelmora.control.local import LocalControl
from modelmora.spec import ModelDeployment, Priority
from modelmora.v1 import management_pb2
from modelmora_router.server import run
from modelmora_router.settings import RouterSettings
from tests.support.fake_worker import FakeWorker, fake_worker
from tests.support.routing import (
    Router,
    condition,
    deployment,
    eventually,
    failed,
    key_of,
    refused,
    request,
    running_router,
)

GOOD = {"input": {"text": "a"}}


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    """One model, asleep, whose requests go out one by one."""
    async with running_router(deployment(batching={"maxSize": 1})) as router:
        yield router


# ------------------------------------------------------------------------------------------------ waking


@pytest.mark.req("REQ-LIFE-001a", "AC-MVP-4", "RM-1.MVP-2")
async def test_the_first_request_wakes_the_model_and_is_held_until_it_serves(
    router: Router, worker: FakeWorker
) -> None:
    assert router.wanted == set()
    worker.serve(serving=False)
    calls = [asyncio.ensure_future(router.inference.Infer(request(str(number)))) for number in range(3)]
    await eventually(lambda: router.wanted == {"one"})
    router.work(worker)
    await router.waiting(queued=3)
    worker.serve()
    answers = await asyncio.gather(*calls)
    assert [answer.output["text"].text.items[0] for answer in answers] == ["0", "1", "2"]


async def test_a_worker_is_found_although_it_listens_later_than_it_is_listed(router: Router) -> None:
    async with fake_worker("w1", listening=False) as worker:
        router.work(worker)
        call = asyncio.ensure_future(router.inference.Infer(request()))
        await router.waiting(queued=1)
        await worker.listen()
        assert (await call).output["text"].text.items == ["hello"]


@pytest.mark.req("REQ-LIFE-002", "API-REST-12")
@pytest.mark.parametrize("action", ["load", "warmup"])
async def test_a_load_wakes_the_model_and_answers_when_it_serves(
    router: Router, worker: FakeWorker, action: str
) -> None:
    loading = asyncio.ensure_future(router.http.post(f"/api/v1/models/one/{action}"))
    await eventually(lambda: router.wanted == {"one"})
    assert not loading.done()
    router.work(worker)
    answer = await loading
    assert answer.status_code == 200, answer.text
    assert answer.json()["modelId"] == "one"
    assert worker.received == []


@pytest.mark.req("REQ-GRPC-001c")
async def test_load_and_unload_over_grpc(router: Router, worker: FakeWorker) -> None:
    loading = asyncio.ensure_future(router.management.LoadModel(management_pb2.LoadModelRequest(model_id="one")))
    await eventually(lambda: router.wanted == {"one"})
    router.work(worker)
    assert (await loading).model_id == "one"
    unloading = asyncio.ensure_future(router.management.UnloadModel(management_pb2.UnloadModelRequest(model_id="one")))
    await eventually(lambda: router.wanted == set())
    router.work()
    assert (await unloading).model_id == "one"


@pytest.mark.req("API-REST-13")
async def test_an_unload_answers_when_the_workers_are_gone(router: Router, worker: FakeWorker) -> None:
    router.work(worker)
    await router.inference.Infer(request())
    unloading = asyncio.ensure_future(router.http.post("/api/v1/models/one/unload"))
    await eventually(lambda: router.wanted == set())
    assert not unloading.done()
    router.work()
    assert (await unloading).status_code == 200


async def test_a_model_in_use_is_not_unloaded(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    router.work(worker)
    running = asyncio.ensure_future(router.inference.Infer(request()))
    await router.waiting(running=1)
    answer = await router.http.post("/api/v1/models/one/unload")
    assert (answer.status_code, answer.json()["code"]) == (409, "MODEL_BUSY")
    worker.release()
    await running


async def test_a_request_during_an_unload_wins(router: Router, worker: FakeWorker) -> None:
    router.work(worker)
    await router.inference.Infer(request())
    worker.hold()
    unloading = asyncio.ensure_future(router.http.post("/api/v1/models/one/unload"))
    await eventually(lambda: router.wanted == set())
    running = asyncio.ensure_future(router.inference.Infer(request("late")))
    await eventually(lambda: router.wanted == {"one"})
    async with fake_worker("w2") as other:
        router.work(worker, other)
        assert (await unloading).json()["code"] == "MODEL_BUSY"
        worker.release()
        await running


async def test_a_model_with_a_floor_is_not_unloaded() -> None:
    async with running_router(deployment(scaling={"minReplicas": 1})) as router:
        answer = await router.http.post("/api/v1/models/one/unload")
        assert (answer.status_code, answer.json()["field"]) == (409, "spec.scaling.minReplicas")


async def test_a_suspended_model_with_a_floor_has_none() -> None:
    async with running_router(deployment(scaling={"minReplicas": 1}, suspend=True)) as router:
        assert (await router.http.post("/api/v1/models/one/unload")).status_code == 200


async def test_an_idle_model_is_no_longer_wanted(worker: FakeWorker) -> None:
    model = deployment(scaling={"scaleToZeroAfterSeconds": 0})
    async with running_router(model, demand_interval_s=0.02) as router:
        router.work(worker)
        worker.hold()
        running = asyncio.ensure_future(router.inference.Infer(request()))
        await router.waiting(running=1)
        assert router.wanted == {"one"}
        worker.release()
        await running
        await eventually(lambda: router.wanted == set())


@pytest.mark.req("REQ-QUEUE-002")
async def test_the_operator_hears_how_urgent_a_model_is_and_since_when_somebody_waits_for_it(
    worker: FakeWorker,
) -> None:
    waiting = {"conditions": (condition("Scheduled", "False", "WaitingForRoom", "all places are taken"),)}
    models = deployment(), deployment("two", model={"id": "two"}, status=waiting)
    async with running_router(*models, demand_interval_s=0.02) as router:

        def said() -> tuple[int, bool]:
            demand = (router.control.demands.value or {}).get(Key("default", "one"))
            return (demand.urgency, demand.waiting_since > 0) if demand else (0, False)

        worker.hold()
        asked = [asyncio.ensure_future(router.inference.Infer(request(priority=priority))) for priority in (4, 2)]
        await eventually(lambda: said() == (Priority.HIGH, True))
        router.work(worker)
        await eventually(lambda: said() == (Priority.HIGH, False))
        worker.release()
        await asyncio.gather(*asked)
        await eventually(lambda: said() == (0, False))


async def test_models_that_run_when_the_router_starts_stay_wanted(worker: FakeWorker) -> None:
    control, stop = LocalControl(), asyncio.Event()
    model = deployment()
    control.deployments.set({key_of(model): model})
    control.workers.set({"w1": worker.listed(key_of(model))})
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        settings = RouterSettings(rest_port=0, grpc_port=0)
        group.create_task(run(settings, control, ready=lambda _: ready.set(), stop=stop))
        await eventually(lambda: control.demands.value)
        assert list(control.demands.value or {}) == [Key("default", "one")]
        stop.set()


# ------------------------------------------------------------------------------------------------ failing


@pytest.mark.req("REQ-LIFE-010b", "REQ-LIFE-011")
async def test_a_failed_load_fails_what_is_held_and_later_requests_still_ask_for_the_retry() -> None:
    idle = {"scaleToZeroAfterSeconds": 0}
    async with running_router(deployment(scaling=idle), demand_interval_s=0.05) as router:
        await _fail_and_ask_again(router, deployment(scaling=idle, status=failed("LoadFailed")))


async def _fail_and_ask_again(router: Router, broken: ModelDeployment) -> None:
    held = router.inference.Infer(request())
    await eventually(lambda: router.wanted == {"one"})
    router.deploy(broken)
    error = await refused(held)
    assert type(error) is errors.ModelUnhealthy
    assert error.context.reason == "LoadFailed"
    await eventually(lambda: router.wanted == set())
    assert type(await refused(router.inference.Infer(request()))) is errors.ModelUnhealthy
    await eventually(lambda: router.wanted == {"one"})


@pytest.mark.req("EDGE-3", "US2-AS3")
async def test_a_worker_that_dies_fails_what_it_had_and_the_next_worker_gets_the_rest(
    router: Router, worker: FakeWorker
) -> None:
    worker.hold()
    router.work(worker)
    calls = [asyncio.ensure_future(router.inference.Infer(request(str(number)))) for number in range(4)]
    await router.waiting(queued=2, running=2)
    await worker.die()
    await eventually(lambda: sum(call.done() for call in calls) == 2)
    for call in [call for call in calls if call.done()]:
        error = await refused(call)
        assert type(error) is errors.WorkerUnavailable
        assert (error.context.model_id, error.context.endpoint) == ("one", worker.address)
    rest = [call for call in calls if not call.done()]
    async with fake_worker("w2") as other:
        router.work(other)
        await asyncio.gather(*rest)
        assert len(other.received) == 2


async def test_a_worker_that_moved_is_found_where_it_is_now(router: Router, worker: FakeWorker) -> None:
    async with fake_worker("w1") as before:
        router.work(before)
        await router.inference.Infer(request("a"))
        assert before.texts == ["a"]
        router.work(worker)  # of the same name, at another address
        await eventually(lambda: worker.streams == 1)
        await router.inference.Infer(request("b"))
        assert (before.texts, worker.texts) == (["a"], ["b"])


async def test_another_worker_at_a_workers_address_is_sent_nothing(router: Router, worker: FakeWorker) -> None:
    worker.identity = "default/of-another-model"
    router.work(worker)
    call = asyncio.ensure_future(router.inference.Infer(request()))
    await eventually(lambda: worker.streams)
    await router.waiting(queued=1)
    assert worker.texts == []
    worker.identity = worker.worker_id  # the address has come back to it, and it says that it serves

    def asked_again() -> bool:
        worker.serve(serving=False)
        worker.serve()
        return worker.streams > 1

    await eventually(asked_again)
    await call
    assert worker.texts == ["hello"]


async def test_a_worker_that_drains_loses_nothing(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    router.work(worker)
    calls = [asyncio.ensure_future(router.inference.Infer(request(str(number)))) for number in range(4)]
    await router.waiting(queued=2, running=2)
    worker.drain()
    async with fake_worker("w2") as other:
        router.work(worker, other)
        answers = await asyncio.gather(*calls)
    assert [answer.output["text"].text.items[0] for answer in answers] == ["0", "1", "2", "3"]


async def test_a_terminating_worker_gets_nothing_new(router: Router, worker: FakeWorker) -> None:
    router.work(worker, terminating=True)
    async with fake_worker("w2") as other:
        call = asyncio.ensure_future(router.inference.Infer(request()))
        await router.waiting(queued=1)
        router.control.workers.set(
            {"w1": worker.listed(Key("default", "one"), terminating=True), "w2": other.listed(Key("default", "one"))}
        )
        await call
        assert (len(worker.received), len(other.received)) == (0, 1)


async def test_a_worker_that_is_no_longer_listed_may_still_finish(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    router.work(worker)
    call = asyncio.ensure_future(router.inference.Infer(request()))
    await router.waiting(running=1)
    router.work()
    late = asyncio.ensure_future(router.inference.Infer(request("late")))
    await router.waiting(queued=1, running=1)
    worker.release()
    assert (await call).output["text"].text.items == ["hello"]
    assert worker.texts == ["hello"]
    late.cancel()


async def test_a_model_that_is_deleted_gives_up_what_is_held(router: Router) -> None:
    held = asyncio.ensure_future(router.http.post("/api/v1/infer/one", json=GOOD))
    await router.waiting(queued=1)
    router.deploy()
    answer = await held
    assert (answer.status_code, answer.json()["code"]) == (404, "MODEL_NOT_FOUND")
    await eventually(lambda: router.wanted == set())


async def test_what_waits_for_a_deleted_model_does_not_go_to_the_next_one_of_its_name(router: Router) -> None:
    held = asyncio.ensure_future(router.http.post("/api/v1/infer/one", json=GOOD))
    await router.waiting(queued=1)
    router.deploy(deployment(metadata={"uid": "another"}))
    answer = await held
    assert (answer.status_code, answer.json()["code"]) == (404, "MODEL_NOT_FOUND")


async def test_a_worker_of_a_deleted_deployment_gets_nothing_of_the_next_one_of_its_name(
    router: Router, worker: FakeWorker
) -> None:
    former, unknown = (replace(worker.listed(Key("default", "one")), deployment_uid=uid) for uid in ("first", ""))
    router.deploy(deployment(metadata={"uid": "first"}))
    router.control.workers.set({worker.worker_id: former})
    await router.inference.Infer(request("before"))
    async with fake_worker("w2") as second:
        router.deploy(deployment(metadata={"uid": "second"}))
        held = asyncio.ensure_future(router.inference.Infer(request("after")))
        await router.waiting(queued=1)
        latter = replace(second.listed(Key("default", "one")), deployment_uid="second")
        router.control.workers.set({worker.worker_id: former, second.worker_id: latter})
        await held
        assert (worker.texts, second.texts) == (["before"], ["after"])
        router.control.workers.set({worker.worker_id: unknown})
        await router.inference.Infer(request("of a control that does not tell"))
        assert len(worker.texts) == 2


async def test_a_worker_that_is_heard_of_before_its_deployment_is_used_once_that_is_there(
    router: Router, worker: FakeWorker
) -> None:
    router.deploy(deployment(metadata={"uid": "first"}))
    latter = replace(worker.listed(Key("default", "one")), deployment_uid="second")
    router.control.workers.set({worker.worker_id: latter})
    held = asyncio.ensure_future(router.inference.Infer(request("first")))
    await router.waiting(queued=1)
    router.deploy(deployment(metadata={"uid": "second"}))
    assert type(await refused(held)) is errors.ModelNotFound
    await router.inference.Infer(request("second"))
    assert worker.texts == ["second"]


async def test_a_load_of_a_model_that_is_deleted_ends(router: Router) -> None:
    loading = asyncio.ensure_future(router.http.post("/api/v1/models/one/load"))
    await eventually(lambda: router.wanted == {"one"})
    router.deploy()
    answer = await loading
    assert (answer.status_code, answer.json()["code"]) == (404, "MODEL_NOT_FOUND")


async def test_a_model_whose_queue_is_full_answers_429() -> None:
    async with running_router(deployment(queue={"maxLength": 1})) as router:
        held = asyncio.ensure_future(router.http.post("/api/v1/infer/one", json=GOOD))
        await router.waiting(queued=1)
        answer = await router.http.post("/api/v1/infer/one", json=GOOD)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        held.cancel()
        await asyncio.wait([held])
        await router.waiting()


async def test_a_model_that_never_wakes_answers_503() -> None:
    async with running_router(deployment(queue={"coldStartTimeoutSeconds": 1})) as router:
        answer = await router.http.post("/api/v1/infer/one", json=GOOD)
        assert (answer.status_code, answer.json()["code"]) == (503, "COLD_START_TIMEOUT")
        assert answer.headers["retry-after"] == "5"
        assert router.wanted == {"one"}


async def test_a_changed_deployment_takes_effect_at_once(router: Router, worker: FakeWorker) -> None:
    router.work(worker)
    await router.inference.Infer(request())
    router.deploy(deployment(suspend=True))
    assert type(await refused(router.inference.Infer(request()))) is errors.ModelSuspended
    router.deploy(deployment())
    assert (await router.inference.Infer(request())).model_id
    assert worker.streams == 1
