"""Why a model's lane does not take, or gives up, a request: the state of its deployment, its bound, its time.

Values in, errors out, no I/O.
"""

from typing import Final

from modelmora.errors import (
    ColdStartTimeout,
    DeadlineExceeded,
    ModelMoraError,
    ModelSuspended,
    ModelUnhealthy,
    QueueFull,
    WorkerUnavailable,
)
from modelmora.spec import ModelDeployment, ModelState
from modelmora_router.deadlines import Ending

_ATTEMPT_S: Final = 1.0


def refusal(deployment: ModelDeployment, *, serving: bool, now: float, retry_after_s: float) -> ModelMoraError | None:
    """Why a request for this model is refused instead of held; None if it is not.

    `serving`: a worker of it answers now. It is used even when the load of a newer spec has failed. `now`: Unix time.
    """
    model_id, status = deployment.model_id, deployment.status
    if deployment.spec.suspend:
        return ModelSuspended(
            f"model {model_id!r} version {deployment.version} is suspended",
            model_id=model_id,
            field="spec.suspend",
            remedy="set spec.suspend to false in its ModelDeployment",
        )
    # A failure of an older spec says nothing about this one.
    current = status.observed_generation >= deployment.metadata.generation
    if serving or status.state != ModelState.FAILED_TO_LOAD or not current:
        return None
    return _unhealthy(deployment, now, retry_after_s)


def _unhealthy(deployment: ModelDeployment, now: float, retry_after_s: float) -> ModelUnhealthy:
    failure, model_id = deployment.status.last_failure, deployment.model_id
    if failure and failure.retry_at:
        # The caller comes when the next attempt has been made, not while it is waited for.
        retry_after_s = max(0.0, failure.retry_at.timestamp() - now) + _ATTEMPT_S
    return ModelUnhealthy(
        f"model {model_id!r} version {deployment.version} cannot be loaded: "
        f"{failure.message if failure else 'the reason is not known yet'}",
        model_id=model_id,
        reason=failure.reason if failure else "",
        remedy=(failure.remedy if failure else "") or "see the status and the log of the model; it is tried again",
        retry_after_s=retry_after_s,
    )


def queue_full(deployment: ModelDeployment) -> QueueFull:
    """As many requests wait as may."""
    return QueueFull(
        f"{deployment.spec.queue.max_length} requests wait for model {deployment.model_id!r}, which is all that may",
        model_id=deployment.model_id,
        field="spec.queue.maxLength",
        remedy="send the request again later, or raise spec.queue.maxLength or spec.scaling.maxReplicas",
        retry_after_s=1.0,
    )


def displaced(deployment: ModelDeployment) -> QueueFull:
    """A more urgent request took the last place."""
    error = queue_full(deployment)
    return QueueFull(
        f"{error.message}, and a more urgent one took the place of this",
        model_id=deployment.model_id,
        field=error.context.field,
        remedy=error.context.remedy,
        retry_after_s=1.0,
    )


def unresponsive(deployment: ModelDeployment, *, retry_after_s: float) -> WorkerUnavailable:
    """Every worker of the model has failed so often that nothing is sent to it for a while."""
    return WorkerUnavailable(
        f"no worker of model {deployment.model_id!r} answers",
        model_id=deployment.model_id,
        remedy="send the request again later; the status and the log of the model's workers tell more",
        retry_after_s=retry_after_s,
    )


def cold_start_timeout(deployment: ModelDeployment, *, retry_after_s: float) -> ColdStartTimeout:
    """No worker served in time: it could not be loaded so quickly, or has no place."""
    waited = f"model {deployment.model_id!r} did not wake within {deployment.spec.queue.cold_start_timeout_seconds:g} s"
    if scheduled := deployment.status.waiting_for_room:
        return ColdStartTimeout(
            f"{waited}, since it has no place",
            model_id=deployment.model_id,
            reason=scheduled.reason,
            remedy=scheduled.message or "send the request again when other models are idle",
            retry_after_s=retry_after_s,
        )
    return ColdStartTimeout(
        waited,
        model_id=deployment.model_id,
        field="spec.queue.coldStartTimeoutSeconds",
        remedy="send the request again, the model goes on waking; or raise spec.queue.coldStartTimeoutSeconds",
        retry_after_s=retry_after_s,
    )


def overdue(deployment: ModelDeployment, *, ending: Ending, allowed_s: float, retry_after_s: float) -> ModelMoraError:
    """The request's time is over; `allowed_s`: as its caller, or its model's default, said."""
    if ending is Ending.ASLEEP:
        return cold_start_timeout(deployment, retry_after_s=retry_after_s)
    by_caller = ending is Ending.CALLER
    return DeadlineExceeded(
        f"model {deployment.model_id!r} did not answer within {allowed_s:.3g} s, "
        + ("the deadline of the call" if by_caller else "its timeout"),
        model_id=deployment.model_id,
        field="" if by_caller else "timeoutSeconds",
        remedy="allow more time, send less at once, or raise spec.scaling.maxReplicas",
    )
