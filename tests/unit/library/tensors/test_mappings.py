"""Files in memory as arrays: where they begin, and that nothing of them stays."""

import os
from collections.abc import Iterator

import numpy as np
import pytest

from modelmora.tensors import mappings, memory
from modelmora.tensors.mappings import HUGE_PAGE_BYTES, PAGE_BYTES, address
from tests.support.memory_maps import arenas_mapped, private_dirty

SIZES = [PAGE_BYTES, HUGE_PAGE_BYTES - PAGE_BYTES, HUGE_PAGE_BYTES, 2 * HUGE_PAGE_BYTES + PAGE_BYTES]


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def fd(size: int) -> Iterator[int]:
    fd, _ = memory.create(size, None)
    yield fd
    os.close(fd)


def test_all_of_a_file_is_seen_and_nothing_stays_when_no_array_looks(fd: int, size: int) -> None:
    before = arenas_mapped()
    mine, theirs = mappings.own(fd, size), mappings.foreign(fd, size)
    assert arenas_mapped() == before + 2 * size
    mine[:] = np.arange(size, dtype=np.uint8)
    last = theirs[-1:]
    del theirs
    assert last[0] == mine[-1]
    assert arenas_mapped() == before + 2 * size
    del mine, last
    assert arenas_mapped() == before


def test_what_has_huge_pages_begins_at_one(fd: int, size: int) -> None:
    for mapped in (mappings.own(fd, size), mappings.foreign(fd, size), mappings.shared(fd, size)):
        assert address(mapped) % (HUGE_PAGE_BYTES if size >= HUGE_PAGE_BYTES else PAGE_BYTES) == 0


def test_all_memory_is_there_before_the_first_write(fd: int, size: int) -> None:
    assert os.fstat(fd).st_blocks * 512 >= size


def test_who_writes_a_foreign_file_gets_a_copy_of_the_page_until_it_is_restored(fd: int, size: int) -> None:
    mine, theirs = mappings.own(fd, size), mappings.foreign(fd, size)
    before = private_dirty(of_arenas=True)
    theirs[5] = 9
    assert mine[5] == 0
    assert private_dirty(of_arenas=True) == before + PAGE_BYTES
    mine[5] = 3
    assert theirs[5] == 9
    mappings.restore(theirs, 0, 10)
    assert theirs[5] == 3
    assert not mappings.written(theirs, 0, size)
    assert private_dirty(of_arenas=True) == before


def test_what_cannot_be_mapped_is_an_error_and_leaves_nothing(size: int) -> None:
    before = arenas_mapped()
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="Permission denied"):
        mappings.own(reading, size)
    os.close(reading)
    os.close(writing)
    assert arenas_mapped() == before


def test_both_ways_to_find_what_was_written_find_the_same(fd: int, size: int) -> None:
    theirs = mappings.foreign(fd, size)
    table = os.open("/proc/self/pagemap", os.O_RDONLY)
    first = address(theirs)
    for place in (None, size - 1, 0):
        if place is not None:
            theirs[place] = 1
        for ends_at in (first + PAGE_BYTES, first + size):
            written = place == 0 or (place is not None and ends_at == first + size)
            assert mappings._listed(table, first, ends_at) is written
            assert mappings.written(theirs, 0, ends_at - first) is written
    os.close(table)
