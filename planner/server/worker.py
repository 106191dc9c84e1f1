"""A worker process: does what it is told on standard input, one thing at a time, and ends when its server has gone.

`python -m planner.server.worker LANE MEMORY_BYTES` is started by the server alone.
"""

import ctypes
import os
import queue
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from planner.server import work
from planner.server.frames import Message, framed, read_frame
from specs.errors import SpecError

PR_SET_PDEATHSIG = 1
NICENESS = 5
"""Workers leave the processor to the server, which needs little of it, and at once."""


def main(lane: str, memory_bytes: int) -> None:
    """Work until standard input ends."""
    # Whoever stops the server may signal all of its processes; what the workers are doing is the server's to end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_the_server()
    _limit(memory_bytes)
    os.nice(NICENESS)
    # Whatever prints (a solver, a library) must not end up between the messages.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, inbox), daemon=True).start()
    work.prepare(lane)
    _send(out, {"ready": True})
    while True:
        _send(out, _answer(inbox.get(), out))


def _answer(message: Message, out: BinaryIO) -> Message:
    """Do one piece of work."""
    _send(out, {"begun": True})
    start_s = time.monotonic()

    def report(stage: str, incumbent: float | None, bound: float | None) -> None:
        _send(out, {"progress": work.point(time.monotonic() - start_s, stage, incumbent, bound)})

    try:
        return {"result": work.WORK[message["work"]](message["arguments"], report)}
    except SpecError as error:
        parts = work.faults(error) if error.parts else []
        return {"refused": {"detail": error.message, "field": error.field, "line": error.line, "parts": parts}}
    except MemoryError:
        return {"failed": "the worker ran out of the memory that it may use; accepted: a smaller question"}
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"internal error: {' '.join(f'{type(error).__name__}: {error}'.split())[:500]}"}


def _send(out: BinaryIO, message: Message) -> None:
    """Write a message; without a reader there is nothing left to do."""
    rest = memoryview(framed(message))
    try:
        while rest:
            rest = rest[out.write(rest) :]
    except OSError:
        os._exit(0)


def _read(stream: BinaryIO, inbox: "queue.SimpleQueue[Message]") -> None:
    """Take messages in; end the process, whatever it is doing, when the server closes its end."""
    while (message := read_frame(stream)) is not None:
        inbox.put(message)
    os._exit(0)


def _die_with_the_server() -> None:
    """Ask Linux to kill this process with its parent, also while no Python code runs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with suppress(OSError):  # when memory is short, a worker goes before the server
            Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def _limit(memory_bytes: int) -> None:
    """Let an allocation beyond the limit fail."""
    if memory_bytes and sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
