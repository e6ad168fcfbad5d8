"""What the kernel says of memory, and by how much loads made the process grow."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.registry.growth import Growth, shares
from modelmora.registry.memory import Memory, groups, headroom_bytes, unique_bytes

KB = 1024


def machine(root: Path, files: dict[str, str]) -> Memory:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return Memory(root)


def test_the_unique_bytes_are_the_private_ones() -> None:
    rollup = (
        "5600768b9000-7ffee7497000 ---p 00000000 00:00 0    [rollup]\nRss:  1688 kB\nShared_Clean: 1536 kB\n"
        "Private_Clean:  40 kB\nPrivate_Dirty:  112 kB\nPrivate_Hugetlb:  2048 kB\n"
    )
    assert unique_bytes(rollup) == (40 + 112 + 2048) * KB


@pytest.mark.req("FR-008a")
def test_this_process_is_as_large_as_others_find_it() -> None:
    assert Memory().own_bytes() == pytest.approx(psutil.Process().memory_full_info().uss, rel=0.02)


def test_a_container_bounds_what_the_machine_has(tmp_path: Path) -> None:
    memory = machine(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:  8000 kB\n",
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/container/memory.max": "max\n",
            "sys/fs/cgroup/pod/container/memory.current": "1024\n",
            "sys/fs/cgroup/pod/memory.max": f"{4000 * KB}\n",
            "sys/fs/cgroup/pod/memory.current": f"{3000 * KB}\n",
            "sys/fs/cgroup/pod/memory.stat": f"anon 1\ninactive_file {500 * KB}\n",
        },
    )
    assert memory.free_bytes() == 1500 * KB


def test_inside_of_a_container_its_limit_is_at_the_root_of_the_mount(tmp_path: Path) -> None:
    limit = {"sys/fs/cgroup/memory.max": "5000\n", "sys/fs/cgroup/memory.current": "4000\n"}
    assert machine(tmp_path, limit | {"proc/self/cgroup": "0::/\n"}).free_bytes() == 1000


def test_the_limit_of_a_container_counts_in_version_1_too(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "11:cpu,cpuacct:/pod/c\n9:memory:/pod/c\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "4000\n",
        "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 500\n",
    }
    assert machine(tmp_path, files).free_bytes() == 1500


def test_where_nobody_says_nothing_is_known(tmp_path: Path) -> None:
    assert (Memory(tmp_path).free_bytes(), Memory(tmp_path).own_bytes()) == (None, None)


def test_the_groups_of_a_process() -> None:
    assert groups("12:memory:/x\n0::/a/b\n") == ["/a/b", "/a", ""]
    assert groups("0::/\n") == [""]
    assert groups("9:memory:/version-1-only\n") == []
    assert groups("9:blkio,memory:/a/b\n0::/\n", "memory") == ["/a/b", "/a", ""]


@pytest.mark.parametrize(
    ("maximum", "current", "stat", "left"),
    [("max\n", "5\n", "", None), ("", "", "", None), ("100\n", "120\n", "inactive_file 5\n", -15)],
    ids=["unbounded", "absent", "over"],
)
def test_the_headroom_of_a_group(maximum: str, current: str, stat: str, left: int | None) -> None:
    assert headroom_bytes(maximum, current, stat) == left


# ---------------------------------------------------------------------------------------------------- growth


def growth(*readings: int | None) -> Growth[str]:
    seen: Iterator[int | None] = iter(readings)
    return Growth(lambda: next(seen))


@pytest.mark.req("FR-008a")
def test_a_load_that_ran_alone_is_as_large_as_the_growth() -> None:
    measured = growth(1000, 1200, 1200, 1250)
    measured.begin()
    assert measured.end("a", None) == {"a": 200}
    measured.begin()
    assert measured.end("b", 9999) == {"b": 50}  # what was declared is not what was measured


def test_loads_that_overlap_share_their_growth_and_it_is_never_counted_twice() -> None:
    measured = growth(1000, 1300, 1400)
    measured.begin()
    measured.begin()
    assert measured.end("a", 100) == {"a": 300}  # the other may have had a part: too much rather than too little
    assert measured.end("b", 300) == {"a": 100, "b": 300}


def test_a_load_that_failed_and_a_model_that_left_have_no_part_in_it() -> None:
    measured = growth(1000, 1100, 1500, 1500)
    measured.begin()
    measured.begin()
    measured.cancel()
    measured.shrunk(200)
    assert measured.end("a", None) == {"a": 300}
    measured.shrunk(200)  # nothing is being loaded
    measured.begin()
    assert measured.end("b", None) == {"b": 0}


def test_where_the_kernel_does_not_say_nothing_is_measured() -> None:
    measured = growth(None, 5)
    measured.begin()
    assert measured.end("a", 7) == {}


@given(growth_bytes=st.integers(0, 10**12), declared=st.lists(st.none() | st.integers(0, 10**12), min_size=1))
def test_the_shares_are_never_more_than_the_whole(growth_bytes: int, declared: list[int | None]) -> None:
    parts = shares(growth_bytes, declared)
    assert len(parts) == len(declared)
    assert growth_bytes - len(parts) <= sum(parts) <= growth_bytes
