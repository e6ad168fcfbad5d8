"""Python's cyclic garbage collector in a process that serves.

Now and then it looks through every object that there is, while everything else stands still: 100 ms beside the
libraries of a router, 400 ms beside torch (CPython's `gc` module; measured by benchmarks/bench_router.py, mixed
priorities). What a process has built by the time it serves mostly stays until its end, so it need not be looked at.
"""

import gc


def settle() -> None:
    """Collects what is garbage now, and takes all that lives out of every later collection. May be called again.

    For programs, not for libraries: what is in cycles and dies after it is never freed.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
