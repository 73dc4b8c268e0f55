"""How OpenMP's threads wait for each other. Imported before torch, whose OpenMP reads it once, as it is loaded.

By default a thread that waits spins for milliseconds, on a core that the one it waits for may need: beside other
programs a step takes 1.4 to 1.5 times as long. If it sleeps at once, a step of a small network takes up to a quarter
longer on an idle machine. A short spin costs 4 to 13 percent there, and gains as much beside other programs
(benchmarks/threads.py). Results stay the same.

Where the user has said how they wait, nothing is changed.
"""

import os
import sys
import threading

DECIDED = any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"))
LATE = "torch" in sys.modules and not DECIDED
if not DECIDED:
    os.environ["GOMP_SPINCOUNT"] = "1000"


def spin_shortly() -> None:
    """What the setting does, where torch was loaded before it: called when a run starts, once is enough.

    GNU's OpenMP spins for a moment only while its teams have more threads than there are cores. A second team that
    never has anything to do sees to that.
    """
    global LATE
    if LATE:
        LATE = False
        threading.Thread(target=keep_team, name="lowrank-idle-team", daemon=True).start()


def keep_team() -> None:
    import torch

    torch.zeros(2**18).relu()  # large enough for all threads
    threading.Event().wait()
