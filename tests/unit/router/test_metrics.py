"""What is counted, whose labels there are, and that what is gone is gone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from modelmora.spec import LoadKind, LoadReport, MeasuredResources, ModelDeployment, Priority
from modelmora_router.calls import Answer
from modelmora_router.gauges import GAUGES, MODEL, Seen, families
from modelmora_router.machine import GpuNumbers, Machine, NvidiaGpus
from modelmora_router.metrics import Meters
from tests.support.routing import condition, deployment

ONE = {"model_namespace": "default", "model": "one", "version": "1.0.0", "task": "txt2embed"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@dataclass
class Numbers:
    queued_by_priority: Mapping[Priority, int] = field(default_factory=dict)
    running: int = 0
    waiting_for_load: int = 0
    serving: int = 0
    breakers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Lane:
    deployment: ModelDeployment
    numbers: Numbers = field(default_factory=Numbers)

    def statistics(self) -> Numbers:
        return self.numbers


def answer(*, total_ms: float = 20.0, inference_ms: float = 3.0) -> Answer:
    return Answer(
        model_id="one",
        version="1.0.0",
        output=b"",
        queue_ms=total_ms - inference_ms,
        inference_ms=inference_ms,
        total_ms=total_ms,
        request_id="r",
    )


def value(meters: Meters, name: str, **labels: str) -> float | None:
    return meters.registry.get_sample_value(f"modelmora_{name}", labels)


def of_one(meters: Meters, name: str, **labels: str) -> float | None:
    return value(meters, name, **ONE, **labels)


def series(meters: Meters) -> set[str]:
    """The names of the models in any label."""
    return {
        sample.labels["model"]
        for family in meters.registry.collect()
        for sample in family.samples
        if "model" in sample.labels
    }


@pytest.mark.req("REQ-OBS-001a", "REQ-OBS-001b", "RM-2.6a")
def test_an_answer_counts_with_its_times() -> None:
    meters = Meters()
    meters.of(deployment()).answered(answer(), traceparent=TRACEPARENT)
    assert of_one(meters, "requests_total", status="success", code="OK") == 1
    assert of_one(meters, "request_duration_seconds_sum", status="success") == pytest.approx(0.02)
    assert of_one(meters, "request_duration_seconds_bucket", status="success", le="0.025") == 1
    assert of_one(meters, "request_duration_seconds_bucket", status="success", le="0.01") == 0
    assert of_one(meters, "inference_duration_seconds_sum") == pytest.approx(0.003)


@pytest.mark.req("REQ-OBS-001b")
def test_a_failure_counts_by_its_code() -> None:
    meters = Meters()
    model = meters.of(deployment())
    for _ in range(2):
        model.failed("QUEUE_FULL", 0.5)
    model.failed("INTERNAL_ERROR", 0.1)
    assert of_one(meters, "requests_total", status="error", code="QUEUE_FULL") == 2
    assert of_one(meters, "requests_total", status="error", code="INTERNAL_ERROR") == 1
    assert of_one(meters, "request_duration_seconds_count", status="error") == 3
    assert of_one(meters, "requests_total", status="success", code="OK") == 0


def test_what_reached_no_model_counts_without_one() -> None:
    meters = Meters()
    meters.refused("MODEL_NOT_FOUND")
    nowhere = dict.fromkeys(MODEL, "")
    assert value(meters, "requests_total", **nowhere, status="error", code="MODEL_NOT_FOUND") == 1


@pytest.mark.req("REQ-OBS-001h")
def test_a_batch_counts_with_its_size_its_fill_and_the_wait_of_each_entry() -> None:
    meters = Meters()
    of_model = meters.of(deployment())
    of_model.dispatched([0.1, 0.2, 0.3])
    of_model.ran(size=3, limit=4)
    assert of_one(meters, "batch_size_bucket", le="2.0") == 0
    assert of_one(meters, "batch_size_bucket", le="4.0") == 1
    assert of_one(meters, "batch_fill_ratio_sum") == 0.75
    assert of_one(meters, "queue_wait_seconds_count") == 3
    assert of_one(meters, "queue_wait_seconds_sum") == pytest.approx(0.6)


def test_sheds_retries_and_holds_count() -> None:
    meters = Meters()
    model = meters.of(deployment())
    for reason in ("QueueFull", "Displaced", "HeldBytes", "RateLimit", "Expired"):
        model.shed(reason)
        assert of_one(meters, "shed_total", reason=reason) == 1
    model.retried("Retried")
    model.held(0.7)
    assert of_one(meters, "retries_total", outcome="Retried") == 1
    assert of_one(meters, "retries_total", outcome="BudgetSpent") == 0, "there from the start, so that a rate is known"
    assert of_one(meters, "hold_duration_seconds_bucket", le="1.0") == 1


@pytest.mark.req("RM-4.3c")
def test_copies_for_a_mirror_count_by_what_became_of_them_and_go_with_the_model() -> None:
    meters, mirror = Meters(), deployment()
    model = meters.of(mirror)
    assert of_one(meters, "mirror_copies_total", outcome="Answered") is None, "most models are no mirror"
    for outcome in ("Answered", "Failed", "TooMany", "HeldBytes", "Closing"):
        model.copied(outcome)
        assert of_one(meters, "mirror_copies_total", outcome=outcome) == 1
    meters.forget(mirror)
    model.copied("Answered")  # of one that was under way
    assert of_one(meters, "mirror_copies_total", outcome="Answered") is None


@pytest.mark.req("REQ-OBS-001d", "RM-2.6b")
def test_loads_and_unloads_count() -> None:
    meters = Meters()
    model = meters.of(deployment())
    model.loaded()
    model.loaded()
    model.unloaded()
    assert (of_one(meters, "model_loads_total"), of_one(meters, "model_unloads_total")) == (2, 1)


@pytest.mark.req("RM-4.3b")
def test_rollbacks_count_and_are_there_from_the_start() -> None:
    meters = Meters()
    model = meters.of(deployment())
    assert of_one(meters, "route_rollbacks_total") == 0
    model.rolled_back()
    assert of_one(meters, "route_rollbacks_total") == 1


# ------------------------------------------------------------------------------------------------ the life of labels


def test_a_new_look_at_a_deployment_goes_on_counting() -> None:
    meters = Meters()
    before = meters.of(deployment())
    after = meters.of(deployment(status={"replicas": 1}))
    assert after is before
    after.loaded()
    before.loaded()
    assert of_one(meters, "model_loads_total") == 2


def test_the_series_of_a_model_that_is_gone_are_gone_and_stay_gone() -> None:
    meters = Meters()
    gone, stays = deployment("one"), deployment("two")
    model = meters.of(gone)
    model.answered(answer(), traceparent="")
    model.failed("QUEUE_FULL", 0.1)
    meters.of(stays)
    meters.forget(gone)
    assert series(meters) == {"two"}
    model.failed("MODEL_NOT_FOUND", 0.1)  # what had waited is told that the model is gone
    model.answered(answer(), traceparent="")
    assert series(meters) == {"two"}
    meters.forget(gone)  # twice is harmless


def test_a_model_that_comes_again_begins_at_zero() -> None:
    meters = Meters()
    meters.of(deployment()).loaded()
    meters.forget(deployment())
    meters.of(deployment()).loaded()
    assert of_one(meters, "model_loads_total") == 1


def test_of_two_deployments_of_one_version_the_series_stay_until_both_are_gone() -> None:
    meters = Meters()
    older, newer = (deployment(name, model={"id": "one"}) for name in ("older", "newer"))
    meters.of(older).loaded()
    meters.of(newer).loaded()
    assert of_one(meters, "model_loads_total") == 2
    meters.forget(older)
    assert of_one(meters, "model_loads_total") == 2
    meters.forget(newer)
    assert series(meters) == set()


def test_a_deployment_whose_identity_is_edited_takes_its_meters_along() -> None:
    meters = Meters()
    held_by_its_lane = meters.of(deployment(model={"id": "one"}))
    meters.of(deployment(model={"id": "other"}))
    held_by_its_lane.loaded()
    assert series(meters) == {"other"}
    assert value(meters, "model_loads_total", **(ONE | {"model": "other"})) == 1


# ---------------------------------------------------------------------------------------------------- what is


def gauges(seen: Seen) -> dict[tuple[str, tuple[str, ...]], float]:
    """By name and the labels besides those of the model."""
    return {
        (
            sample.name.removeprefix("modelmora_"),
            tuple(v for k, v in sample.labels.items() if k not in MODEL),
        ): sample.value
        for family in families(seen)
        for sample in family.samples
    }


@pytest.mark.req("REQ-OBS-001c", "RM-2.6d")
def test_the_depth_of_a_queue_is_shown_by_priority() -> None:
    model = deployment(queue={"maxLength": 7})
    numbers = Numbers({Priority.CRITICAL: 1, Priority.HIGH: 2, Priority.NORMAL: 3, Priority.LOW: 4}, running=5)
    shown = gauges(Seen(((model, numbers),)))
    assert [shown["queue_depth", (priority.name,)] for priority in Priority] == [1, 2, 3, 4]
    assert (shown["requests_running", ()], shown["queue_limit", ()]) == (5, 7)
    empty = gauges(Seen(((model, Numbers()),)))
    assert [empty["queue_depth", (priority.name,)] for priority in Priority] == [0, 0, 0, 0]


@pytest.mark.req("REQ-OBS-001e")
def test_models_that_serve_are_active() -> None:
    lanes = [(deployment(name), Numbers(serving=serving)) for name, serving in (("one", 2), ("two", 0), ("three", 1))]
    assert gauges(Seen(tuple(lanes)))["active_models", ()] == 2
    assert gauges(Seen())["active_models", ()] == 0


def test_breakers_are_counted_by_state() -> None:
    numbers = Numbers(breakers={"a": "Open", "b": "Closed", "c": "Open"})
    shown = gauges(Seen(((deployment(), numbers),)))
    assert [shown["breaker_state", (state,)] for state in ("Closed", "HalfOpen", "Open")] == [1, 0, 2]


@pytest.mark.req("REQ-OBS-001f", "LC-37")
def test_what_the_operator_says_of_a_model_is_shown() -> None:
    model = deployment(
        status={
            "desired_replicas": 3,
            "ready_replicas": 2,
            "resources": MeasuredResources(memory_bytes=1000, vram_bytes=500),
            "last_load": LoadReport(seconds={"spawn": 0.1, "load": 0.4}, kind=LoadKind.WARM),
            "conditions": (condition("Ready", "False", "LoadFailed"),),
        }
    )
    shown = gauges(Seen((), (model,)))
    assert (shown["replicas", ("Desired",)], shown["replicas", ("Ready",)]) == (3, 2)
    assert (shown["memory_bytes", ()], shown["vram_bytes", ()]) == (1000, 500)
    assert (shown["cold_start_seconds", ("spawn", "Warm")], shown["cold_start_seconds", ("load", "Warm")]) == (0.1, 0.4)
    assert [shown["condition", ("Ready", status)] for status in ("True", "False", "Unknown")] == [0, 1, 0]
    assert shown["models", ("Pending",)] == 1


def test_two_deployments_of_one_version_make_no_series_twice() -> None:
    models = [deployment(name, model={"id": "one"}) for name in ("older", "newer")]
    numbers = Numbers({Priority.LOW: 2})
    seen = Seen(tuple((model, numbers) for model in models), tuple(models))
    every = [(s.name, tuple(s.labels.items())) for family in families(seen) for s in family.samples]
    assert len(every) == len(set(every))
    assert gauges(seen)["queue_depth", ("LOW",)] == 4


def test_the_state_is_looked_at_when_somebody_asks() -> None:
    meters = Meters()
    lane = Lane(deployment())
    held = [5]
    meters.follow(lambda: [lane], held_bytes=lambda: held[0])
    assert of_one(meters, "queue_depth", priority="LOW") == 0
    lane.numbers, held[0] = Numbers({Priority.LOW: 9}), 6
    assert of_one(meters, "queue_depth", priority="LOW") == 9
    assert value(meters, "held_bytes") == 6


# ---------------------------------------------------------------------------------------------------- the machine


class TwoGpus:
    def numbers(self) -> list[GpuNumbers]:
        return [GpuNumbers("GPU-a", 0.5, 10, 40), GpuNumbers("GPU-b", math.nan, 0, 40)]


class NoGpus:
    def numbers(self) -> list[GpuNumbers]:
        return []


@pytest.mark.req("REQ-OBS-001f", "RM-2.6c")
def test_the_memory_of_the_machine_is_shown() -> None:
    meters = Meters()
    total, free = (value(meters, "system_memory_bytes", state=state) for state in ("Total", "Available"))
    assert total is not None
    assert free is not None
    assert total > free > 0


@pytest.mark.req("REQ-OBS-001g", "RM-2.2f")
def test_gpus_are_shown_each_and_one_without_a_number_as_nan() -> None:
    shown = {
        (sample.name, *sample.labels.values()): sample.value
        for family in Machine(TwoGpus()).families()
        for sample in family.samples
    }
    assert shown["modelmora_gpu_utilization_ratio", "GPU-a"] == 0.5
    assert math.isnan(shown["modelmora_gpu_utilization_ratio", "GPU-b"])
    assert shown["modelmora_gpu_memory_bytes", "GPU-a", "Used"] == 10


@pytest.mark.req("REQ-OBS-001g")
def test_without_a_gpu_its_numbers_are_there_and_nan() -> None:
    samples = [s for family in Machine(NoGpus()).families() for s in family.samples if "gpu" in s.name]
    assert {s.name for s in samples} == {"modelmora_gpu_utilization_ratio", "modelmora_gpu_memory_bytes"}
    assert all(math.isnan(s.value) for s in samples)


# ---------------------------------------------------------------------------------------------------- the formats


async def exposed(meters: Meters, accept: str) -> tuple[str, str]:
    body, content_type = await meters.exposition(accept)
    return body.decode(), content_type


@pytest.mark.req("AC-PROD-4")
async def test_both_formats_are_understood_by_prometheus_own_parsers() -> None:
    meters = Meters()
    meters.follow(lambda: [Lane(deployment(status={"conditions": (condition(),)}))])
    meters.of(deployment()).answered(answer(), traceparent=TRACEPARENT)
    plain, kind = await exposed(meters, "")
    assert kind.startswith("text/plain")
    exact, kind = await exposed(meters, OPENMETRICS)
    assert kind.startswith("application/openmetrics-text")
    for names in ({f.name for f in prometheus(plain)}, {f.name for f in openmetrics(exact)}):
        assert {f"modelmora_{gauge.name}" for gauge in GAUGES} < names
        assert "modelmora_requests" in names


@pytest.mark.req("REQ-OBS-004")
async def test_openmetrics_names_the_trace_of_a_request_beside_its_bucket() -> None:
    meters = Meters()
    meters.of(deployment()).answered(answer(), traceparent=TRACEPARENT)
    text, _ = await exposed(meters, OPENMETRICS)
    exemplars = [
        (sample.labels["le"], sample.exemplar.labels, sample.exemplar.value)
        for family in openmetrics(text)
        for sample in family.samples
        if sample.exemplar
    ]
    assert exemplars == [("0.025", {"trace_id": TRACE}, 0.02)]


@pytest.mark.gpu
@pytest.mark.req("REQ-OBS-001g", "RM-2.2f")
def test_a_real_gpu_has_real_numbers() -> None:
    shown = NvidiaGpus().numbers()
    assert shown
    for gpu in shown:
        assert gpu.uuid.startswith(("GPU-", "MIG-"))
        assert 0 <= gpu.used_bytes <= gpu.total_bytes
        assert math.isnan(gpu.utilization) or 0 <= gpu.utilization <= 1
