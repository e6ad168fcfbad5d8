"""What a process does with its garbage when it has started."""

import gc
import subprocess
import sys

PROGRAM = """
import gc, weakref
from modelmora import garbage

class Node: pass

gc.disable()
one = Node()
one.itself = one
gone = weakref.ref(one)
del one
garbage.settle()
assert gone() is None, "what was garbage is not kept"
assert gc.get_freeze_count() > 1_000, "what lives is not looked at again"
assert gc.isenabled(), "what becomes garbage later is collected"
"""


def test_what_lives_then_is_never_looked_at_again_and_what_is_garbage_is_not_kept() -> None:
    before = gc.get_freeze_count()
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert gc.get_freeze_count() == before, "importing it does nothing"
