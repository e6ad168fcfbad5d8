"""Which of two deployments of the same model and version serves."""

from modelmora_operator.duplicates import identity, older_twin
from tests.support.operator_values import NOW, deployment


def test_the_older_one_serves() -> None:
    old, young = deployment("b", created=NOW), deployment("a", created=NOW + 1)
    assert older_twin(old, [young]) is None
    assert older_twin(young, [old]) is old


def test_of_the_same_age_the_first_by_name_serves() -> None:
    first, second = deployment("a"), deployment("b")
    assert older_twin(first, [second]) is None
    assert older_twin(second, [first]) is first


def test_one_that_was_never_created_is_the_youngest() -> None:
    assert older_twin(deployment("a", created=None), [deployment("b")]) is not None


def test_versions_are_no_duplicates_of_each_other() -> None:
    assert identity(deployment(model={"version": "1.0.0"})) != identity(deployment(model={"version": "1.0.1"}))
