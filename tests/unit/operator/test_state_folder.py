"""The folder of one local server."""

import stat
from pathlib import Path

import pytest

from modelmora.errors import AlreadyRunning, InvalidSettings
from modelmora_operator.backends.state_folder import StateFolder


def test_a_second_server_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    import os  # noqa: PLC0415 - for the pid alone

    with StateFolder(tmp_path), pytest.raises(AlreadyRunning) as caught:
        StateFolder(tmp_path).__enter__()
    assert str(os.getpid()) in caught.value.message
    assert caught.value.context.field == "state_dir"
    with StateFolder(tmp_path):
        pass


def test_what_a_killed_server_left_is_swept(tmp_path: Path) -> None:
    killed = StateFolder(tmp_path)
    killed.__enter__()
    place = killed.place()
    place.socket.touch()
    killed._unlock()  # as the kernel does it at its end
    with StateFolder(tmp_path) as folder:
        assert not place.socket.exists()
        assert not place.folder.exists()
        assert list(folder.sockets.iterdir()) == []


def test_sockets_are_for_this_user_only_and_gone_at_the_end(tmp_path: Path) -> None:
    with StateFolder(tmp_path / "state") as folder:
        assert stat.S_IMODE(folder.sockets.stat().st_mode) == 0o700
        folder.place().socket.touch()
    assert not folder.sockets.exists()


def test_no_two_workers_have_the_same_paths(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        first, second = folder.place(), folder.place()
        assert first.socket != second.socket
        first.remove()
        assert second.folder.exists()
    with StateFolder(tmp_path) as again:
        assert again.place().socket.name != first.socket.name


def test_a_long_path_gets_its_sockets_elsewhere_and_a_sweep_finds_them(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 100)
    killed = StateFolder(long)
    killed.__enter__()
    socket = killed.place().socket
    socket.touch()
    assert len(str(socket)) <= 107
    assert not socket.is_relative_to(long)
    killed._unlock()
    with StateFolder(long) as folder:
        assert not socket.exists()
    assert not folder.sockets.exists()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSettings) as caught:
        StateFolder(tmp_path / "file" / "state").__enter__()
    assert caught.value.context.field == "state_dir"
