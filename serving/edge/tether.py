"""Ties a program to the one that starts it: `python tether.py PARENT_PID PROGRAM ARG...` asks the kernel to be killed when its parent
dies, and becomes PROGRAM. Runs by path in an isolated interpreter, imports nothing of ours.

PR_SET_PDEATHSIG means the *thread* that forked: start this from a thread that lives as long as the parent should. It survives exec,
not fork, so PROGRAM must stay in the foreground. A wrapper, not a preexec_fn: running Python between fork and exec in a process with
many threads can hang on a lock that some other thread held.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    # the parent may have died before the call
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent has gone")
    os.execv(sys.argv[2], sys.argv[2:])
