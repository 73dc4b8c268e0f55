"""How OpenMP's threads wait for each other. Imported before torch, whose OpenMP reads it once, as it is loaded.

By default a thread that waits spins for milliseconds, on a core that the one it waits for may need: with other programs
beside, a step of a small network takes several times as long (benchmarks/threads.py). Results stay the same.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
