"""What an operator that has just started reads from a status."""

from modelmora.spec import ModelDeployment
from modelmora_operator.backends.past_failures import told_before
from tests.support.operator_values import NOW, deployment, failed, hash_of, reported, worker

MODEL = deployment()


def test_a_failure_that_was_told_is_known_again() -> None:
    before = reported(MODEL, failure=failed(MODEL, 3, at=NOW - 5))
    record = told_before(before, hash_of(MODEL))
    assert record is not None
    assert (record.spec_hash, record.at, record.last.reason) == (hash_of(MODEL), NOW - 5, "LoadFailed")
    assert record.in_a_row == 1


def test_a_model_that_is_well_or_was_edited_since_has_none() -> None:
    assert told_before(MODEL, hash_of(MODEL)) is None
    assert told_before(reported(MODEL, worker(MODEL)), hash_of(MODEL)) is None
    before = reported(MODEL, failure=failed(MODEL))
    edited = ModelDeployment.stored(
        {**before.manifest(), "metadata": {**before.manifest()["metadata"], "generation": 2}}
    )
    assert told_before(edited, "another") is None
