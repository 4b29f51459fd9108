"""Run a script on several ranks, as torchrun does, and import torch once: `python forked.py RANKS SCRIPT ARGUMENT...`.

Each rank is a fork of this process, which has started no thread.
"""

import importlib
import os
import runpy
import socket
import sys
import traceback

IMPORTED_ONCE = (
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.parallel",
    "gradclip",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(rank: int, script: str) -> int:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    sys.path[0] = os.path.dirname(script)  # noqa: PTH120 -- as Python does
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 -- it is told, and the rank ends
        traceback.print_exc()
        return 1
    return 0


def main() -> int:
    for module in IMPORTED_ONCE:
        importlib.import_module(module)
    ranks, script = int(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    os.environ |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = []
    for rank in range(ranks):
        if (pid := os.fork()) == 0:
            code = run(rank, script)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        started.append(pid)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started)


if __name__ == "__main__":
    sys.exit(main())
