"""What a machine has, what its environment says of it, and what is counted."""

import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from modelmora.errors import InvalidSettings, SharedMemoryUnavailable
from modelmora.tensors import capabilities, counters, statistics
from modelmora.tensors import settings as tensor_settings
from modelmora.tensors.capabilities import gpus
from tests.support.shared_memory import sessions


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(tensor_settings, "settings", tensor_settings.settings.__wrapped__)
    return monkeypatch


@pytest.mark.req("FR-013a")
def test_shared_memory_is_tried_out_and_can_be_switched_off(environment: pytest.MonkeyPatch) -> None:
    found = capabilities()
    assert (found.shared_memory, found.backing, found.why) == (True, "memfd", "")
    environment.setenv("MODELMORA_SHARED_MEMORY", "off")
    found = capabilities()
    assert (found.shared_memory, found.backing) == (False, "")
    assert "switched off by MODELMORA_SHARED_MEMORY" in found.why
    with sessions() as (mine, _), pytest.raises(SharedMemoryUnavailable, match="switched off"):
        mine.empty(1)


@pytest.mark.req("FR-013a")
def test_a_folder_where_no_arena_can_be_made_is_said_to_be_none(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("MODELMORA_SHARED_MEMORY_DIR", str(tmp_path / "none"))
    assert "No such file" in capabilities().why
    environment.setenv("MODELMORA_SHARED_MEMORY_DIR", "/dev/shm")
    assert capabilities().backing == "tmpfs"


def test_a_setting_that_cannot_be_understood_is_an_error_that_names_it(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MODELMORA_SHARED_MEMORY", "perhaps")
    with pytest.raises(InvalidSettings, match="perhaps") as caught:
        capabilities()
    assert caught.value.context.field == "shared_memory"


@pytest.mark.req("FR-013b")
def test_gpus_are_found_without_pytorch_as_the_driver_lists_them(tmp_path: Path) -> None:
    assert gpus(tmp_path / "none") == ()
    for name, text in (("0000:01:00.0", "Model: \t NVIDIA T4\nIRQ: 5\n"), ("0000:02:00.0", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "information").write_text(text)
    assert gpus(tmp_path) == ("NVIDIA T4", "0000:02:00.0")
    assert "torch" not in sys.modules or capabilities().gpus == gpus()


@pytest.mark.req("FR-005", "FR-006")
def test_what_travels_is_counted_whichever_thread_sends_it() -> None:
    before = statistics()

    def count() -> None:
        for _ in range(500):
            counters.count_sent("shm", 10)
            counters.count_sent("bytes", 1)
            counters.count_fallback("QUOTA_EXCEEDED")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    after = statistics()
    assert (after.shm - before.shm, after.shm_bytes - before.shm_bytes) == (4000, 40_000)
    assert (after.bytes - before.bytes, after.bytes_bytes - before.bytes_bytes) == (4000, 4000)
    assert after.fallbacks["QUOTA_EXCEEDED"] - before.fallbacks.get("QUOTA_EXCEEDED", 0) == 4000


def test_reasons_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "_fallbacks", Counter())
    for number in range(1000):
        counters.count_fallback(f"REASON_{number}")
    assert len(statistics().fallbacks) <= 65
    assert statistics().fallbacks["OTHER"] > 900
