import pytest

from modelmora.errors import InvalidRequest
from modelmora.spec import RESERVED_SEGMENTS, ModelRef, Priority, is_version, version_order


@pytest.mark.req("API-REST-03")
@pytest.mark.parametrize(
    "model_id", ["minilm", "sentence-transformers/all-MiniLM-L6-v2", "a/b/c", "a_b/c.d-1", "load/x"]
)
def test_an_id_is_segments_joined_by_slashes(model_id: str) -> None:
    assert ModelRef.parse(model_id) == ModelRef(model_id, None)


@pytest.mark.req("API-REST-03")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "..",
        "../etc/passwd",
        "a/../b",
        "a/./b",
        ".hidden",
        "a..b",
        "a b",
        "ä",
        "a\n",
        "a\x00",
        "x" * 254,
    ],
)
def test_what_is_no_id_is_refused_with_the_field(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ModelRef.parse(text)
    assert caught.value.context.field == "modelId"
    assert caught.value.context.remedy
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("word", RESERVED_SEGMENTS)
def test_an_id_cannot_end_in_the_name_of_an_action(word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        ModelRef.parse(f"org/{word}")


@pytest.mark.req("REQ-REG-001b")
def test_a_reference_names_one_version_after_an_at_sign() -> None:
    ref = ModelRef.parse("org/name@1.2.3-rc.1")
    assert ref == ModelRef("org/name", "1.2.3-rc.1")
    assert str(ref) == "org/name@1.2.3-rc.1"


@pytest.mark.req("REQ-REG-001b")
@pytest.mark.parametrize("version", ["", "1", "1.0", "v1.0.0", "01.0.0", "1.0.0-", "latest", "1.0.0@2.0.0"])
def test_a_version_that_is_not_semantic_is_refused(version: str) -> None:
    with pytest.raises(InvalidRequest, match="semantic"):
        ModelRef.parse(f"org/name@{version}")
    assert not is_version(version)


@pytest.mark.req("REQ-REG-001b", "RM-1.2c")
def test_versions_are_ordered_as_semver_org_says() -> None:
    before = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"]
    ordered = [*before, "1.0.0-rc.1", "1.0.0", "1.2.0", "1.10.0"]
    assert sorted(sorted(ordered), key=version_order) == ordered
    assert version_order("1.0.0+one") == version_order("1.0.0+two")


def test_there_is_no_order_of_what_is_no_version() -> None:
    with pytest.raises(ValueError, match="not a semantic version"):
        version_order("1.0")


@pytest.mark.parametrize(
    ("name", "priority"),
    [("CRITICAL", 1), ("high", 2), ("Normal", 3), ("medium", 3), ("low", 4)],
)
def test_priorities_are_named_in_any_case_and_medium_is_normal(name: str, priority: int) -> None:
    assert Priority.parse(name) is Priority(priority)


def test_an_unknown_priority_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Priority.parse("urgent")
    for number in ("0", "5", "-1", "1.0", "²"):
        with pytest.raises(InvalidRequest):
            Priority.parse(number)
    assert "CRITICAL, HIGH, NORMAL or LOW" in caught.value.context.remedy
