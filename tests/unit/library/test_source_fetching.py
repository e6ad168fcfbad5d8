"""Files of packages and folders: where they are, what they are, and whether they are the right ones."""

import hashlib
import os
import sys
import time
from pathlib import Path

import pytest

from modelmora.errors import ChecksumMismatch, InvalidSource, SourceNotFound
from modelmora.sources import Fetched, FetchOptions, Pins, fetch, parse
from modelmora.sources.integrity import hash_folder

WEIGHTS = b"weights"
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / ".hidden").write_text("x")
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    return folder


def get(uri: str, tmp_path: Path, **pins: object) -> Fetched:
    options = FetchOptions(cache_dir=tmp_path / "cache", model_id="org/m", pins=Pins(**pins))  # type: ignore[arg-type]
    return fetch(parse(uri), options)


@pytest.mark.req("RM-1.3b")
def test_a_folder_is_used_where_it_is_and_hashed(model: Path, tmp_path: Path) -> None:
    fetched = get(f"file://{model}", tmp_path)
    assert fetched.path == model
    assert set(fetched.sha256) == {"model.safetensors", "1_Pooling/config.json"}
    assert fetched.sha256["model.safetensors"] == SHA256
    assert fetched.bytes == len(WEIGHTS) + 2


def test_the_digest_is_of_names_and_contents(model: Path, tmp_path: Path) -> None:
    before = get(f"file://{model}", tmp_path).digest
    assert get(f"file://{model}", tmp_path).digest == before
    (model / "1_Pooling" / "config.json").rename(model / "1_Pooling" / "other.json")
    assert get(f"file://{model}", tmp_path).digest != before


def later() -> float:
    """When every file here has been as it is for a while."""
    return time.time() + 60


@pytest.mark.req("RM-1.3c")
def test_an_unchanged_file_is_not_read_again(model: Path, tmp_path: Path) -> None:
    hash_folder(model, cache_dir=tmp_path, now=later())
    [record] = (tmp_path / "digests").iterdir()
    record.write_text(record.read_text().replace(SHA256, "remembered"))
    again = hash_folder(model, cache_dir=tmp_path, now=later())
    assert again.sha256["model.safetensors"] == "remembered"


def test_a_file_that_was_just_written_is_read_again(model: Path, tmp_path: Path) -> None:
    hash_folder(model, cache_dir=tmp_path, now=time.time())
    [record] = (tmp_path / "digests").iterdir()
    assert SHA256 not in record.read_text()


def test_a_changed_file_of_the_same_size_and_time_is_seen(model: Path, tmp_path: Path) -> None:
    first = hash_folder(model, cache_dir=tmp_path, now=later())
    (model / "model.safetensors").write_bytes(WEIGHTS[::-1])
    os.utime(model / "model.safetensors", (1, 1))
    assert hash_folder(model, cache_dir=tmp_path, now=later()).digest != first.digest


def test_a_broken_record_of_digests_is_no_reason_to_fail(model: Path, tmp_path: Path) -> None:
    first = get(f"file://{model}", tmp_path)
    [record] = (tmp_path / "cache" / "digests").iterdir()
    record.write_text("[1")
    assert get(f"file://{model}", tmp_path) == first


def test_a_folder_that_contains_itself_is_hashed_once(model: Path, tmp_path: Path) -> None:
    (model / "loop").symlink_to(model)
    assert len(get(f"file://{model}", tmp_path).sha256) == 2


def test_a_pipe_is_no_file_of_a_model_even_behind_a_link(model: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (model / "notes.txt").symlink_to(tmp_path / "pipe")
    assert "notes.txt" not in get(f"file://{model}", tmp_path).sha256


def test_a_link_that_leads_nowhere_is_told(model: Path, tmp_path: Path) -> None:
    (model / "lost.safetensors").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SourceNotFound, match=r"lost\.safetensors"):
        get(f"file://{model}", tmp_path)


def test_weights_of_other_formats_need_a_pin_too_and_a_pin_may_be_written_with_a_dot(
    model: Path, tmp_path: Path
) -> None:
    pins = {"./model.safetensors": SHA256}
    assert get(f"file://{model}", tmp_path, sha256=pins, unpinned="Refuse").files == 2
    (model / "model.ONNX").write_bytes(b"weights")
    with pytest.raises(ChecksumMismatch, match=r"model\.ONNX"):
        get(f"file://{model}", tmp_path, sha256=pins, unpinned="Refuse")


def test_a_pinned_file_is_held_against_its_pin(model: Path, tmp_path: Path) -> None:
    assert get(f"file://{model}", tmp_path, sha256={"model.safetensors": SHA256}).files == 2
    with pytest.raises(ChecksumMismatch) as caught:
        get(f"file://{model}", tmp_path, sha256={"model.safetensors": "0" * 64})
    assert caught.value.context.file == "model.safetensors"
    assert SHA256 in caught.value.message
    assert "0" * 64 in caught.value.message


def test_a_pinned_file_that_is_missing_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ChecksumMismatch, match="is missing"):
        get(f"file://{model}", tmp_path, sha256={"other.safetensors": SHA256})


@pytest.mark.parametrize(("unpinned", "refused"), [("Allow", False), ("Warn", False), ("Refuse", True)])
def test_weights_without_a_pin_are_refused_only_where_wished(
    model: Path, tmp_path: Path, unpinned: str, refused: bool
) -> None:
    if refused:
        with pytest.raises(ChecksumMismatch, match=r"model\.safetensors"):
            get(f"file://{model}", tmp_path, unpinned=unpinned)
    else:
        assert get(f"file://{model}", tmp_path, unpinned=unpinned).files == 2


def test_a_package_is_found_without_being_executed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / "explosive_model"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('executed')")
    model.rename(package / "model")
    monkeypatch.syspath_prepend(str(package.parent))
    fetched = get("package://explosive_model/model", tmp_path)
    assert fetched.path == (package / "model").resolve()
    assert "explosive_model" not in sys.modules


def test_a_package_inside_another_is_found_without_executing_either(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / "explosive_parent" / "models"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("raise SystemExit('executed')")
    model.rename(package / "minilm")
    monkeypatch.syspath_prepend(str(package.parent.parent))
    fetched = get("package://explosive_parent.models/minilm", tmp_path)
    assert fetched.path == (package / "minilm").resolve()
    assert "explosive_parent" not in sys.modules


def test_a_part_of_a_namespace_package_is_found_in_whichever_place_it_lies(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("first", "second"):
        (tmp_path / place / "spread_out").mkdir(parents=True)
        monkeypatch.syspath_prepend(str(tmp_path / place))
    model.rename(tmp_path / "first" / "spread_out" / "model")
    (tmp_path / "second" / "spread_out" / "other").mkdir()
    assert get("package://spread_out/model", tmp_path).path == (tmp_path / "first" / "spread_out" / "model").resolve()


def test_a_package_may_not_lead_out_of_itself(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "packages" / "leading_out"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model").symlink_to(model)
    monkeypatch.syspath_prepend(str(package.parent))
    with pytest.raises(InvalidSource, match="leads out"):
        get("package://leading_out/model", tmp_path)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("package://a_package_that_nobody_has/model", "pip install a-package-that-nobody-has"),
        ("package://modelmora/no/such/folder", "existing folder"),
        ("file:///nowhere/at/all", "existing folder"),
    ],
)
def test_what_is_not_there_is_told_with_a_remedy(tmp_path: Path, uri: str, says: str) -> None:
    with pytest.raises(SourceNotFound) as caught:
        get(uri, tmp_path)
    assert says in caught.value.context.remedy
    assert caught.value.context.model_id == "org/m"


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceNotFound, match="no file"):
        get(f"file://{tmp_path}/empty", tmp_path)


@pytest.fixture
def volumes(model: Path, tmp_path: Path) -> FetchOptions:
    """A pod with a claim "models" that holds the model in org/m."""
    (tmp_path / "volumes" / "models" / "org").mkdir(parents=True)
    model.rename(tmp_path / "volumes" / "models" / "org" / "m")
    return FetchOptions(cache_dir=tmp_path / "cache", volumes_dir=tmp_path / "volumes", model_id="org/m")


@pytest.mark.req("RM-1.3b")
def test_a_folder_of_a_claim_is_used_where_it_is_mounted(volumes: FetchOptions) -> None:
    fetched = fetch(parse("pvc://models/org/m"), volumes)
    assert volumes.volumes_dir is not None
    assert fetched.path == volumes.volumes_dir / "models" / "org" / "m"
    assert fetched.sha256["model.safetensors"] == SHA256


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("pvc://models/org/other", "claim models"),
        ("pvc://others/org/m", "claim others"),
        ("file:///no/such/folder", "spec.podTemplate"),
    ],
)
def test_what_a_pod_has_not_is_told_with_what_a_pod_can_have(volumes: FetchOptions, uri: str, remedy: str) -> None:
    with pytest.raises(SourceNotFound) as caught:
        fetch(parse(uri), volumes)
    assert remedy in caught.value.context.remedy
    assert uri in caught.value.message


def test_a_claim_is_refused_where_there_is_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(InvalidSource) as caught:
        get("pvc://models/org/m", tmp_path)
    assert "file:///" in caught.value.context.remedy
