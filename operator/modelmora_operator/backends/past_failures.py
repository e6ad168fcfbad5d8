"""What the status of a deployment tells an operator that has just started of failures before its time. Pure."""

from modelmora.spec import ConditionStatus, ModelDeployment
from modelmora_operator.cluster import Failure, FailureRecord
from modelmora_operator.conditions import READY


def told_before(deployment: ModelDeployment, spec_hash: str) -> FailureRecord | None:
    """The last failure, if the present spec is the one that failed; how often it did so nobody has written down."""
    said, ready = deployment.status.last_failure, deployment.status.condition(READY)
    if said is None or ready is None or ready.status is not ConditionStatus.FALSE or ready.reason != said.reason:
        return None
    if ready.observed_generation != deployment.metadata.generation:
        return None
    failure = Failure(said.where, said.reason, said.message, said.remedy, said.exit_code)
    at = said.time.timestamp()
    return FailureRecord(spec_hash, 1, at, failure, started_at=at)
