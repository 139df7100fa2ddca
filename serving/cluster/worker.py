"""What Ray runs in place of its own worker script: asks the nursery for a process that has everything imported, and ends.

A Ray worker imports Ray, Serve and mostly torch before it does anything: 4 to 7 s of CPU each. The nursery (`nursery.py`) has them
imported and forks in 30 ms. Where it does not answer, or the worker needs an environment that must be there before torch is
imported, this becomes the ordinary worker. Run by path; imports nothing but the standard library.

Ray calls it as `worker.py DEFAULT_WORKER ARG...` or, with a runtime_env, as
`worker.py worker.py DEFAULT_WORKER ARG... --language=PYTHON --serialized-runtime-env-context={...}`.
"""

import json
import os
import signal
import socket
import sys

SOCKET = "SERVING_NURSERY"
"""Variable with the path of the nursery's socket."""
PRELOAD = "SERVING_PRELOAD"
"""Variable with modules, comma-separated, that the process should have imported."""
ENTRY = "SERVING_RAY_WORKER"
"""Variable with the path of Ray's own worker script."""
ANSWER_S = 120.0
BEFORE_IMPORT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LD_PRELOAD", "PYTHONPATH")
"""Variables that a process reads while it imports; with others than the nursery's it has to be a new one."""

FIRST_JOB = "01000000"
"""Id that Ray gives to the first driver, which is ours; its C++ reads RAY_JOB_ID while it is imported."""


def main(arguments: list[str]) -> None:
    context = "{}"
    passed = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name == "--serialized-runtime-env-context":
            context = value
        elif name != "--language":
            passed.append(argument)
    if passed and os.path.basename(passed[0]) == os.path.basename(__file__):
        passed = passed[1:]
    told = json.loads(context or "{}")
    early = {name: os.environ.get(name) for name in BEFORE_IMPORT}
    os.environ.update(told.get("env_vars") or {})
    changed = early != {name: os.environ.get(name) for name in BEFORE_IMPORT}
    fresh = changed or bool(told.get("command_prefix")) or os.environ.get("RAY_JOB_ID") != FIRST_JOB
    if fresh or not ask(passed):
        os.execv(sys.executable, [sys.executable, os.environ[ENTRY], *passed])


def ask(arguments: list[str]) -> bool:
    """Return whether the nursery has forked a worker with these arguments, this environment and these standard streams."""
    order = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "preload": [m for m in os.environ.get(PRELOAD, "").split(",") if m],
        "blocked": [int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    }
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as nursery:
            nursery.settimeout(ANSWER_S)
            nursery.connect(os.environ[SOCKET])
            socket.send_fds(nursery, [json.dumps(order).encode()], [0, 1, 2])
            return nursery.recv(16) == b"forked"
    except (OSError, KeyError):
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
