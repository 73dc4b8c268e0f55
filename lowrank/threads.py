"""How OpenMP's threads wait for each other. Imported before torch, whose OpenMP reads it once, as it is loaded.

By default a thread that waits spins for milliseconds, on a core that the one it waits for may need: beside other
programs a step takes half as long again, or several times as long. If it sleeps at once, a step of a small network
takes up to a quarter longer on an idle machine. A short spin costs 4 to 13 percent there, and has all of the gain
beside other programs (benchmarks/threads.py). Results stay the same.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
