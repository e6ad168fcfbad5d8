"""Manifests are watched: a changed one takes effect, a broken one leaves the last good one serving."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelmora import Client
from modelmora.errors import ModelNotFound
from tests.support.scripted import events, scripted
from tests.support.servers import Server, serving, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    scripted(folder, "a")
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serving(folder, folder.parent) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as client:
        yield client


def known(client: Client) -> set[str]:
    return {model.model_id for model in client.list_models()}


@pytest.mark.req("RM-1.2g", "RM-1.MVP-1")
def test_a_new_file_is_a_new_model_and_a_removed_one_is_gone(folder: Path, client: Client) -> None:
    file = scripted(folder, "b")
    wait_for(lambda: known(client) == {"a", "b"}, within_s=60, what="the new model")
    assert client.infer("b", "hello").output["text"] == ["hello"]
    file.unlink()
    wait_for(lambda: known(client) == {"a"}, within_s=60, what="the model to go")
    with pytest.raises(ModelNotFound):
        client.infer("b", "hello")


def test_a_change_that_a_worker_sees_replaces_it_without_a_gap(folder: Path, client: Client) -> None:
    before = int(client.infer("a", "hello").output["pid"][0])
    scripted(folder, "a", model={"somethingElse": 1})
    wait_for(lambda: int(client.infer("a", "hello").output["pid"][0]) != before, within_s=60, what="the new worker")


def test_an_edit_of_a_scaling_number_restarts_nothing(folder: Path, client: Client) -> None:
    before = int(client.infer("a", "hello").output["pid"][0])
    scripted(folder, "a", scaling={"scaleToZeroAfterSeconds": 1234})
    wait_for(
        lambda: client.get_model("a").spec["scaling"]["scaleToZeroAfterSeconds"] == 1234, within_s=60, what="the edit"
    )
    assert int(client.infer("a", "hello").output["pid"][0]) == before
    assert events(folder, "a").count("load") == 1


def test_a_broken_file_leaves_the_last_good_one_serving_and_is_named(
    folder: Path, server: Server, client: Client
) -> None:
    file = folder / "a.yaml"
    good = file.read_text()
    file.write_text(good.replace("task: txt2embed", "task: txt2embed\n    tusk: 1"))
    wait_for(lambda: "spec.model.tusk" in server.log(), within_s=60, what="the log to name the field")
    assert "a.yaml" in server.log()
    assert client.infer("a", "hello").output["text"] == ["hello"]
    file.write_text("")  # as an editor does before it writes
    wait_for(lambda: "a.yaml is empty" in server.log(), within_s=60, what="the empty file to be read")
    assert client.infer("a", "hello").output["text"] == ["hello"]
    file.write_text("a: [")
    assert client.infer("a", "hello").output["text"] == ["hello"]
    file.write_text(good)
    scripted(folder, "c")
    wait_for(lambda: known(client) == {"a", "c"}, within_s=60, what="the files to be read again")


@pytest.mark.req("RM-1.2h")
def test_manifests_may_use_the_environment(folder: Path, tmp_path: Path) -> None:
    scripted(folder, "a", model_id="org/${MODEL_NAME:-default}")
    scripted(folder, "b", model_id="org/${OTHER_NAME}")
    with serving(folder, tmp_path, env={"OTHER_NAME": "other"}) as server, server.client() as client:
        assert known(client) == {"org/default", "org/other"}


def test_fields_that_only_a_cluster_honours_are_named(folder: Path, tmp_path: Path) -> None:
    scripted(folder, "a", podTemplate={"spec": {"nodeSelector": {"disk": "fast"}}})
    with serving(folder, tmp_path) as server:
        wait_for(lambda: "spec.podTemplate" in server.log(), within_s=60, what="the warning")
