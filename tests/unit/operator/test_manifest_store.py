"""Manifests on disk, and how changes of them are heard."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelmora.spec import ModelDeployment
from modelmora_operator.backends.manifests import ManifestStore
from tests.support.manifests import manifest, route
from tests.support.waiting import eventually


def write(file: Path, name: str = "minilm", **spec: Any) -> Path:
    file.write_text(yaml.safe_dump(manifest(name, **spec)))
    return file


def names(store: ManifestStore) -> set[str]:
    return {key.name for key in store.deployments}


@asynccontextmanager
async def watching(store: ManifestStore, rescan_s: float = 0.5) -> AsyncIterator[None]:
    async def follow() -> None:
        async for _ in store.changes(rescan_s=rescan_s):
            pass

    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow(), name="follow")
        yield
        following.cancel()


@pytest.mark.req("RM-1.2g")
async def test_files_and_folders_and_what_stands_in_no_file_are_read_together(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "a.yaml", "in-folder")
    file = write(tmp_path / "b.yaml", "in-file")
    bare = ModelDeployment.parse(manifest("bare"))
    store = ManifestStore([tmp_path / "folder", file], fixed=[bare], variables={})
    assert await store.read()
    assert names(store) == {"in-folder", "in-file", "bare"}
    assert not await store.read()


@pytest.mark.req("RM-1.2h")
async def test_variables_come_from_what_was_passed_in(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", model={"source": {"uri": "file://${MODELS}/minilm"}})
    store = ManifestStore([file], variables={"MODELS": "/models"})
    await store.read()
    (deployment,) = store.deployments.values()
    assert deployment.spec.model.source.uri == "file:///models/minilm"


async def test_routes_are_read_beside_deployments(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml")
    file = tmp_path / "route.yaml"
    file.write_text(yaml.safe_dump(route()))
    store = ManifestStore([tmp_path], variables={})
    assert await store.read()
    assert [one.spec.model_id for one in store.routes.values()] == ["org/minilm"]
    assert not await store.read()
    file.unlink()
    assert await store.read()
    assert (store.routes, names(store)) == ({}, {"minilm"})


async def test_a_changed_a_new_and_a_deleted_file_are_heard_of(tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", "first")
    store = ManifestStore([tmp_path], variables={})
    await store.read()
    async with watching(store):
        write(tmp_path / "b.yaml", "second")
        await eventually(lambda: names(store) == {"first", "second"}, what="the new file")
        write(first, "first", scaling={"maxReplicas": 7})
        await eventually(
            lambda: any(d.spec.scaling.max_replicas == 7 for d in store.deployments.values()), what="the change"
        )
        first.unlink()
        await eventually(lambda: names(store) == {"second"}, what="the deletion")


async def test_a_broken_edit_leaves_the_last_good_one_and_names_file_and_field(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml")
    store = ManifestStore([file], variables={})
    await store.read()
    good = store.deployments
    async with watching(store):
        write(file, scaling={"minReplicas": -1})
        await eventually(lambda: store.problems, what="the problem")
        (problem,) = store.problems
        assert problem.context.file == str(file)
        assert problem.context.field == "spec.scaling.minReplicas"
        assert store.deployments == good
        write(file, scaling={"maxReplicas": 2})
        await eventually(lambda: not store.problems, what="the correction")
    assert [d.metadata.generation for d in store.deployments.values()] == [2]


async def test_a_folder_that_cannot_be_read_for_a_moment_takes_no_model_away(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    write(folder / "a.yaml")
    store = ManifestStore([folder], variables={})
    await store.read()
    good = store.deployments
    folder.rename(tmp_path / "away")
    assert not await store.read()
    assert store.deployments == good
    assert str(folder) in store.problems[0].message
    (tmp_path / "away" / "a.yaml").unlink()
    (tmp_path / "away").rename(folder)
    await store.read()
    assert names(store) == set()


async def test_a_folder_that_may_not_be_listed_is_a_problem_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.yaml")
    store = ManifestStore([tmp_path], variables={})
    await store.read()

    def refuse(_: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    await store.read()
    assert names(store) == {"minilm"}
    assert "Permission denied" in store.problems[0].message


async def test_changes_are_found_where_the_system_has_no_watch_to_give(tmp_path: Path) -> None:
    async def none_left(*_: Path, **__: Any) -> AsyncIterator[object]:
        raise RuntimeError("Too many open files (os error 24)")
        yield

    store = ManifestStore([tmp_path], variables={}, watch=none_left)
    await store.read()
    async with watching(store, rescan_s=0.05):
        write(tmp_path / "a.yaml", "found")
        await eventually(lambda: names(store) == {"found"}, what="the new file")


async def test_a_file_that_is_replaced_by_renaming_is_heard_of(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "before")
    store = ManifestStore([file], variables={})
    await store.read()
    async with watching(store, rescan_s=3600):
        draft = write(tmp_path / ".a.draft", "after")

        def replaced() -> bool:
            # The watch may not have begun yet: write until it hears.
            if not file.read_text() or names(store) != {"after"}:
                draft.write_text(yaml.safe_dump(manifest("after")))
                draft.replace(file)
            return names(store) == {"after"}

        await eventually(replaced, what="the renamed file")
