"""Which deployment a request is for."""

import difflib
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import pytest

from modelmora.errors import InvalidRequest, ModelNotFound
from modelmora.spec import ModelDeployment, ModelRef
from modelmora_router.catalog import Catalog, page
from tests.support.routing import condition, deployment, key_of

VERIFIED = {"conditions": (condition("Ready", "True", "ScaledToZero"),)}


def version(number: str, *, name: str = "", verified: bool = True, **fields: Any) -> ModelDeployment:
    return deployment(
        name or f"m-{number.replace('.', '-')}",
        model={"id": "org/m", "version": number},
        status=VERIFIED if verified else None,
        **fields,
    )


def catalog(*models: ModelDeployment) -> Catalog:
    return Catalog({key_of(model): model for model in models})


def chosen(*models: ModelDeployment) -> str:
    return catalog(*models).resolve("default", ModelRef("org/m")).version


@pytest.mark.req("REQ-REG-001b", "RM-1.2c")
def test_a_bare_id_means_the_highest_version_by_number_not_by_letter() -> None:
    assert chosen(version("1.9.0"), version("1.10.0"), version("1.2.0")) == "1.10.0"


def test_a_version_that_never_passed_its_test_waits_behind_one_that_did() -> None:
    assert chosen(version("1.0.0"), version("2.0.0", verified=False)) == "1.0.0"


def test_a_suspended_version_is_passed_over() -> None:
    assert chosen(version("1.0.0", verified=False), version("2.0.0", suspend=True)) == "1.0.0"


def test_with_nothing_verified_the_highest_is_tried() -> None:
    assert chosen(version("1.0.0", verified=False), version("2.0.0", verified=False)) == "2.0.0"


def test_with_everything_suspended_the_highest_is_named() -> None:
    assert chosen(version("1.0.0", suspend=True), version("2.0.0", suspend=True)) == "2.0.0"


@pytest.mark.req("RM-1.2c")
def test_a_version_can_be_asked_for() -> None:
    models = catalog(version("1.0.0"), version("2.0.0"))
    assert models.resolve("default", ModelRef("org/m", "1.0.0")).version == "1.0.0"


def test_of_two_with_the_same_identity_the_older_serves() -> None:
    young = version("1.0.0", name="a", metadata={"creation_timestamp": datetime(2026, 2, 2, tzinfo=UTC)})
    old = version("1.0.0", name="b", metadata={"creation_timestamp": datetime(2026, 1, 1, tzinfo=UTC)})
    models = catalog(young, old)
    assert models.resolve("default", ModelRef("org/m")).metadata.name == "b"
    assert len(models.listed("default")) == 1


def test_namespaces_never_mix() -> None:
    models = catalog(deployment("one", namespace="theirs"))
    with pytest.raises(ModelNotFound, match="no model 'one' in namespace 'ours'"):
        models.resolve("ours", ModelRef("one"))
    assert models.listed("ours") == []


@pytest.mark.parametrize("asked", ["org/minilm", "minilm-l6", "Org/MiniLM-L6"])
def test_an_unknown_id_is_answered_with_similar_ones(asked: str) -> None:
    models = catalog(deployment("one", model={"id": "org/minilm-l6"}), deployment("two", model={"id": "other/thing"}))
    with pytest.raises(ModelNotFound) as caught:
        models.resolve("default", ModelRef(asked))
    assert caught.value.context.remedy == "did you mean 'org/minilm-l6'?"


def test_of_many_models_only_some_are_compared_with_an_unknown_id(monkeypatch: pytest.MonkeyPatch) -> None:
    models = catalog(
        *(deployment(f"m{number}", model={"id": f"org/{'x' * (number % 90)}{number}"}) for number in range(300))
    )
    compared: list[int] = []
    real = difflib.get_close_matches

    def counted(word: str, known: Collection[str], n: int) -> list[str]:
        compared.append(len(known))
        return real(word, list(known), n=n)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    with pytest.raises(ModelNotFound):
        models.resolve("default", ModelRef("org/unknown"))
    assert max(compared) <= 100  # each costs the time that others wait


def test_an_unknown_version_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(ModelNotFound, match=r"no version 3\.0\.0") as caught:
        catalog(version("1.0.0"), version("2.0.0")).resolve("default", ModelRef("org/m", "3.0.0"))
    assert "2.0.0, 1.0.0" in caught.value.context.remedy


def test_an_empty_catalog_says_what_to_do_first() -> None:
    with pytest.raises(ModelNotFound) as caught:
        catalog().resolve("default", ModelRef("one"))
    assert caught.value.context.remedy == "deploy a model first"


@pytest.mark.req("API-REST-02", "RM-1.2e")
def test_a_list_can_be_narrowed_to_a_task() -> None:
    models = catalog(deployment("a", model={"task": "txt2embed"}), deployment("b", model={"task": "img2txt"}))
    assert [model.metadata.name for model in models.listed("default", "img2txt")] == ["b"]


def test_all_of_them_come_by_namespace_id_and_version() -> None:
    found = catalog(
        deployment("p", namespace="b", model={"id": "m", "version": "1.10.0"}),
        deployment("q", namespace="b", model={"id": "m", "version": "1.9.0"}),
        deployment("x", namespace="b", model={"id": "a"}),
        deployment("w", namespace="a", model={"id": "z"}),
        deployment("v", namespace="c", model={"id": "a"}),
    )
    assert [model.metadata.name for model in found.everywhere()] == ["w", "x", "q", "p", "v"]
    found.everywhere().clear()  # it is the caller's own
    assert [model.metadata.name for model in found.everywhere()] == ["w", "x", "q", "p", "v"]
    assert [model.metadata.name for model in found.listed("b")] == ["x", "q", "p"]


@pytest.mark.req("API-REST-02")
def test_pages_show_every_model_once_even_if_one_is_deleted_meanwhile() -> None:
    models = [version(f"1.{minor}.0") for minor in range(12)]
    listed = catalog(*models).listed("default")
    first = page(listed, size=5, token="")
    without_last = [model for model in listed if model is not first.models[-1]]
    second = page(without_last, size=5, token=first.next_token)
    third = page(without_last, size=5, token=second.next_token)
    shown = [model.version for part in (first, second, third) for model in part.models]
    assert shown == [f"1.{minor}.0" for minor in range(12)]
    assert third.next_token == ""


@pytest.mark.parametrize(
    ("size", "token", "field"),
    [(-1, "", "pageSize"), (1001, "", "pageSize"), (5, "é!", "pageToken"), (5, "YWJj", "pageToken")],
)
def test_a_page_that_cannot_be_is_refused(size: int, token: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        page([], size=size, token=token)
    assert caught.value.context.field == field
