"""What a local worker runs before anything else, in place of the script or notebook that started it.

Ctrl-C is the driver's to handle. And where the driver is killed, the kernel kills the worker (PR_SET_PDEATHSIG), even
while it imports or computes in C code, where Dask's own watch for the driver has to wait. Imports nothing of lowrank.
"""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1

signal.signal(signal.SIGINT, signal.SIG_IGN)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
