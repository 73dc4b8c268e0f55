"""How OpenMP's threads wait for each other. Imported before torch, whose OpenMP reads it once, as it is loaded.

By default a thread that waits spins for milliseconds, on a core that the one it waits for may need: beside other
programs a step of a small network takes five times as long. If it sleeps at once, a step takes half as long again on an
idle machine. A short spin costs neither (benchmarks/threads.py). Results stay the same.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
