"""From documents to deployments, as an API server would."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from modelmora.control import Key
from modelmora.errors import InvalidManifest
from modelmora.spec import ModelDeployment, ModelRoute
from modelmora.spec.manifests import Document
from modelmora_operator.backends.merging import Merge, Store, merge
from tests.support.manifests import manifest, route
from tests.support.operator_values import NOW

A, B = Path("a.yaml"), Path("b.yaml")
UIDS = (f"uid-{number}" for number in itertools.count())


def document(file: Path, name: str = "minilm", **spec: Any) -> Document:
    return Document(file, resource=ModelDeployment.parse(manifest(name, **spec)))


def broken(file: Path) -> Document:
    return Document(file, error=InvalidManifest(f"{file}: broken", file=str(file), field="spec.model.task"))


def merged(*documents: Document, before: Store | None = None, now: float = NOW) -> Merge:
    return merge(before or {}, documents, now=now, new_uid=lambda: next(UIDS))


def only(of: Merge) -> ModelDeployment:
    (stored,) = of.store.values()
    return stored.resource


def names(of: Merge) -> set[str]:
    return {key.name for key in of.store}


def test_a_new_object_gets_an_identity_and_its_first_generation() -> None:
    metadata = only(merged(document(A))).metadata
    assert metadata.uid
    assert (metadata.generation, metadata.creation_timestamp is not None) == (1, True)


def test_of_two_that_come_together_the_first_is_the_older() -> None:
    made = merged(document(A, "z"), document(B, "a"))
    first, second = made.store[Key("default", "z")], made.store[Key("default", "a")]
    assert first.resource.metadata.creation_timestamp
    assert second.resource.metadata.creation_timestamp
    assert first.resource.metadata.creation_timestamp < second.resource.metadata.creation_timestamp


def test_reading_the_same_again_changes_nothing() -> None:
    before = merged(document(A))
    again = merged(document(A), before=before.store, now=NOW + 9)
    assert again.store == before.store
    assert only(again) is only(before)


def test_an_edit_of_the_spec_counts_a_generation_and_keeps_the_identity() -> None:
    before = merged(document(A))
    after = only(merged(document(A, scaling={"maxReplicas": 2}), before=before.store, now=NOW + 9))
    assert after.metadata.generation == 2
    assert after.metadata.uid == only(before).metadata.uid
    assert after.metadata.creation_timestamp == only(before).metadata.creation_timestamp


def test_what_is_in_no_file_any_more_is_gone() -> None:
    before = merged(document(A, "one"), document(B, "two"))
    assert names(merged(document(A, "one"), before=before.store)) == {"one"}


def test_a_broken_file_leaves_its_last_good_objects_and_disturbs_no_other() -> None:
    before = merged(document(A, "one"), document(B, "two"))
    after = merged(broken(A), document(B, "two", scaling={"maxReplicas": 2}), before=before.store)
    assert names(after) == {"one", "two"}
    assert after.store[Key("default", "one")] == before.store[Key("default", "one")]
    assert after.store[Key("default", "two")].resource.metadata.generation == 2
    assert [problem.context.field for problem in after.problems] == ["spec.model.task"]


def test_one_broken_document_leaves_the_others_of_its_file_free_to_change() -> None:
    before = merged(document(A, "one"), document(A, "two"))
    after = merged(document(A, "one", scaling={"maxReplicas": 2}), broken(A), before=before.store)
    assert names(after) == {"one", "two"}
    assert after.store[Key("default", "one")].resource.metadata.generation == 2


@pytest.mark.parametrize(
    ("edit", "field"),
    [({"id": "org/other"}, "spec.model.id"), ({"version": "2.0.0"}, "spec.model.version")],
)
def test_what_is_immutable_stays_as_it_was_and_the_file_is_blamed(edit: dict[str, str], field: str) -> None:
    before = merged(document(A))
    after = merged(document(A, model=edit), before=before.store)
    assert after.store == before.store
    (problem,) = after.problems
    assert (problem.context.field, problem.context.file) == (field, "a.yaml")
    assert "immutable" in problem.message


def test_two_files_that_define_one_object_are_both_named_and_the_first_counts() -> None:
    after = merged(document(A), document(B, scaling={"maxReplicas": 2}))
    assert only(after).spec.scaling.max_replicas == 1
    (problem,) = after.problems
    assert "a.yaml and b.yaml" in problem.message


def test_an_object_may_move_to_another_file() -> None:
    before = merged(document(A))
    after = merged(document(B), before=before.store)
    assert only(after) == only(before)
    assert after.problems == ()


def routed(file: Path, name: str = "minilm", **spec: Any) -> Document:
    return Document(file, resource=ModelRoute.parse(route(name, **spec)))


def test_a_route_has_an_identity_and_counts_its_edits() -> None:
    before = merged(document(A), routed(A))
    again = merge(before.store, [document(A), routed(A)], now=NOW, new_uid=str, routes=before.routes)
    assert again.routes == before.routes
    edited = routed(A, modelId="another")  # unlike a deployment's
    after = merge(before.store, [document(A), edited], now=NOW, new_uid=str, routes=before.routes)
    assert after.problems == ()
    key = Key("default", "minilm")
    was, now = before.routes[key], after.routes[key]
    assert now.resource.metadata.uid == was.resource.metadata.uid
    assert (was.resource.metadata.generation, now.resource.metadata.generation) == (1, 2)


def test_a_broken_file_keeps_its_routes_and_a_removed_one_takes_them_along() -> None:
    before = merged(routed(A))
    assert merge({}, [broken(A)], now=NOW, new_uid=str, routes=before.routes).routes == before.routes
    assert merge({}, [], now=NOW, new_uid=str, routes=before.routes).routes == {}


def test_of_two_routes_of_a_name_the_first_counts() -> None:
    both = merged(routed(A), routed(B, modelId="another"))
    assert [one.resource.spec.model_id for one in both.routes.values()] == ["org/minilm"]
    assert ["ModelRoute default/minilm" in problem.message for problem in both.problems] == [True]
