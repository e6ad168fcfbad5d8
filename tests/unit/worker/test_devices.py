"""What a worker says of its device."""

import sys
from types import ModuleType

import pytest

from modelmora_worker.engines.devices import allocated_bytes


@pytest.mark.parametrize("torch", [None, ModuleType("torch")], ids=["not-imported", "half-imported"])
def test_memory_is_measured_also_before_torch_is_there(
    monkeypatch: pytest.MonkeyPatch, torch: ModuleType | None
) -> None:
    if torch is None:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "torch", torch)
    assert allocated_bytes() == 0
