"""One worker process, from the server's side."""

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from planner.server.frames import HEADER, Message, framed, parsed

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
SECRETS = ("CLEAVE_TOKEN", "CLEAVE_STORE", "PGPASSWORD")
"""Variables that a worker has no use for."""


@dataclass(frozen=True, eq=False)
class WorkerProcess:
    """A process of `planner.server.worker`. It ends by itself when this end of its pipes is closed.

    Args:
        process: the process.
    """

    process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, lane: str, memory_bytes: int) -> "WorkerProcess":
        """Start one.

        Args:
            lane: the kind of work that it prepares for.
            memory_bytes: data that it may hold; 0 for no limit.
        """
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        path = [str(PACKAGE_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        # Workers share the cores as they are; threads of a linear-algebra library would only get in their way.
        environment.setdefault("OPENBLAS_NUM_THREADS", "1")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "planner.server.worker",
            lane,
            str(memory_bytes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C in a terminal is for the server
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self.process.pid

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended."""
        return self.process.returncode is not None

    async def send(self, message: Message) -> None:
        """Give it a message; one that has ended takes none, and `receive` says so."""
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(framed(message))
            await self.process.stdin.drain()

    async def receive(self) -> Message | None:
        """Its next message; None when it has ended."""
        assert self.process.stdout is not None
        try:
            (size,) = HEADER.unpack(await self.process.stdout.readexactly(HEADER.size))
            return parsed(await self.process.stdout.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def kill(self) -> str:
        """End it at once, if it still runs, and say in words how it ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        code = await self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        if code >= 0:
            return f"exited with code {code}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    async def last_words(self) -> str:
        """Say in words how it ended by itself."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), 1.0)
        return await self.kill()
