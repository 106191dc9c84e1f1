"""Jobs over restarts."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, fields
from typing import Any, TypeVar

from planner.server.database import Database, connect
from planner.server.job import JobKind, JobStatus
from planner.server.record import Record
from specs.errors import SpecError

VERSION = 1
CHECK_S = 1.0
"""However often it is asked, a check writes no more often than this."""
TABLES = (
    "CREATE TABLE IF NOT EXISTS cleave_store (version INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS jobs (
        id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        status TEXT NOT NULL,
        created_at DOUBLE PRECISION NOT NULL,
        question TEXT NOT NULL,
        key TEXT,
        attempts INTEGER NOT NULL,
        started_at DOUBLE PRECISION,
        finished_at DOUBLE PRECISION,
        result TEXT,
        error TEXT,
        progress TEXT NOT NULL
    )""",
    "CREATE UNIQUE INDEX IF NOT EXISTS jobs_by_key ON jobs (kind, key)",
    "CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status)",
    "CREATE INDEX IF NOT EXISTS jobs_by_kind ON jobs (kind, id)",
)
COLUMNS = tuple(field.name for field in fields(Record))
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM jobs"
_HEAD = ("id", "kind", "status", "created_at", "started_at", "finished_at")
"""Columns of a list: results and questions may be megabytes."""
_INSERT = f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT DO NOTHING"
_CHANGING = ("status", "attempts", "started_at", "finished_at", "result", "error", "progress")
_UPDATE = f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in _CHANGING)} WHERE id = ?"

T = TypeVar("T")


class Store:
    """The table of jobs. One thread speaks to the database, so that the server never waits for it.

    Args:
        url: of the database.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._database: Database | None = None
        self._written_s = -CHECK_S
        """When a check last wrote."""

    async def open(self) -> None:
        """Connect, and make the tables where there are none; an open store stays as it is.

        Raises:
            SpecError: the URL is refused, or the database belongs to another version or server.
            StoreError: the database does not do its work.
        """

        def open_tables() -> None:
            self._database = database = connect(self._url)
            for statement in TABLES:
                database.run(statement)
            versions = database.run("SELECT version FROM cleave_store")
            if not versions:
                database.run("INSERT INTO cleave_store (version) VALUES (?)", (VERSION,))
            elif versions[0][0] != VERSION:
                raise SpecError(
                    f"is of version {versions[0][0]}; accepted: {VERSION}, or an empty database", field="--store"
                )

        if self._database is None:
            await asyncio.get_running_loop().run_in_executor(self._thread, open_tables)

    async def close(self) -> None:
        """Disconnect."""
        if self._database is not None:
            await self._run(lambda database: database.close())
        self._thread.shutdown(wait=False)

    async def insert(self, record: Record) -> Record | None:
        """Add a job; where its key is taken, return the job that took it instead."""

        def insert(database: Database) -> Record | None:
            database.run(_INSERT, astuple(record))
            if record.key is None:
                return None
            rows = database.run(f"{_SELECT} WHERE kind = ? AND key = ?", (record.kind, record.key))
            found = _record(rows[0])
            return None if found.id == record.id else found

        return await self._run(insert)

    async def save(self, record: Record) -> None:
        """Write what changed in a job."""
        values = [getattr(record, name) for name in _CHANGING]
        await self._run(lambda database: database.run(_UPDATE, (*values, record.id)))

    async def get(self, kind: JobKind, job_id: str) -> Record | None:
        """The job of an id."""
        rows = await self._run(lambda database: database.run(f"{_SELECT} WHERE id = ? AND kind = ?", (job_id, kind)))
        return _record(rows[0]) if rows else None

    async def by_key(self, kind: JobKind, key: str) -> Record | None:
        """The job of an idempotency key."""
        rows = await self._run(lambda database: database.run(f"{_SELECT} WHERE kind = ? AND key = ?", (kind, key)))
        return _record(rows[0]) if rows else None

    async def newest(self, kind: JobKind, limit: int) -> list[Record]:
        """The last jobs of a kind, the newest first, without their questions and results."""
        statement = f"SELECT {', '.join(_HEAD)} FROM jobs WHERE kind = ? ORDER BY id DESC LIMIT ?"
        rows = await self._run(lambda database: database.run(statement, (kind, limit)))
        return [_record(row, _HEAD) for row in rows]

    async def unfinished(self) -> list[Record]:
        """Jobs that are queued or were running, the oldest first."""
        statement = f"{_SELECT} WHERE status IN (?, ?) ORDER BY id"
        states = (JobStatus.QUEUED, JobStatus.RUNNING)
        return [_record(row) for row in await self._run(lambda database: database.run(statement, states))]

    async def check(self) -> None:
        """Write nothing new, once in a while: a full disk can still be read.

        Raises:
            StoreError: it does not answer, or takes nothing.
        """
        now_s = time.monotonic()
        if now_s - self._written_s < CHECK_S:
            await self._run(lambda database: database.run("SELECT 1"))
            return
        await self._run(lambda database: database.run("UPDATE cleave_store SET version = version"))
        self._written_s = now_s

    async def _run(self, work: Callable[[Database], T]) -> T:
        database = self._database
        assert database is not None, "the store is not open"
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, database)


def _record(row: tuple[Any, ...], columns: tuple[str, ...] = COLUMNS) -> Record:
    values = dict(zip(columns, row, strict=True))
    return Record(**{"question": "", **values, "kind": JobKind(values["kind"]), "status": JobStatus(values["status"])})
