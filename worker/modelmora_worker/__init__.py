"""One process that owns one model and its device."""

import os

# Before any library is loaded that reads it. Threads of OpenMP wait for one another by spinning, unless they are told
# to sleep: fine for a program that has all cores to itself. A worker shares its cores with the router, with other
# workers and with a limit on its CPU time, and there they would take the time of those for whom they wait.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # noqa: TID251 - OpenMP's own setting; spec.runtime.env comes first
