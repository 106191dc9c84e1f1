"""The two databases that a store may be: one connection each, used by one thread."""

import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from specs.errors import SpecError

if TYPE_CHECKING:
    import psycopg

ACCEPTED = "accepted: sqlite:///path, sqlite:// (in memory) or postgresql://user:password@host/database"
ADVISORY_LOCK = 0x636C656176
"""Held on a PostgreSQL database while a server uses it."""
LOCK_WAIT_S = 5.0
"""How long a server that was killed may take to let go."""
LOCK_POLL_S = 0.2


class StoreError(Exception):
    """The database cannot be reached, or does not do its work."""


class Database(Protocol):
    """Runs statements, each a transaction of its own; `?` stands for a parameter."""

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows.

        Raises:
            StoreError: it cannot be run.
        """

    def close(self) -> None:
        """Let go of the database."""


def without_secrets(url: str) -> str:
    """The URL of a store as it may be shown: without user, password and parameters."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "..."  # whatever it is, a password may be in it
    if scheme == "sqlite":
        return url
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def connect(url: str) -> Database:
    """Open the database of a URL, for this server alone.

    Raises:
        SpecError: a URL of neither kind, or another server uses the database.
        StoreError: the database cannot be reached.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and (not rest or rest.startswith("/")):
        return SqliteDatabase(rest[1:] or ":memory:")
    if scheme in ("postgresql", "postgres"):
        return PostgresDatabase(url)
    raise SpecError(f"is no URL of a store, got {without_secrets(url)[:100]!r}; {ACCEPTED}", field="--store")


class SqliteDatabase:
    """A SQLite file, locked while it is open.

    Args:
        path: of the file, which is made where it is missing, or `:memory:`.
    """

    def __init__(self, path: str) -> None:
        try:
            if path != ":memory:":
                Path(path).expanduser().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                path = str(Path(path).expanduser())
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # questions and plans are nobody else's
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=LOCK_WAIT_S, check_same_thread=False)
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            # What was committed outlives a killed server; a crash of the machine may cost the last moments.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            if "locked" in str(error):
                raise SpecError(
                    f"is used by another server: {path}; accepted: a file of its own for each", field="--store"
                ) from None
            raise SpecError(f"cannot be opened: {path}: {error}; {ACCEPTED}", field="--store") from None

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows.

        Raises:
            StoreError: it cannot be run.
        """
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise StoreError(str(error)) from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class PostgresDatabase:
    """A PostgreSQL database, under an advisory lock; connects anew where the connection was lost.

    Args:
        url: as libpq takes it.
    """

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ImportError:
            raise SpecError(
                "needs psycopg, which is not installed: pip install 'cleave[postgres]'", field="--store"
            ) from None
        try:
            psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.Error:  # its words quote the piece that is wrong, which may be of a password
            raise SpecError(
                f"is no URL that PostgreSQL takes; special characters of a password are percent-encoded; {ACCEPTED}",
                field="--store",
            ) from None
        self._psycopg = psycopg
        self._url = url
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = self._connect()

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows; once more where the connection turns out to be lost.

        Every statement of the store may be run twice without harm.

        Raises:
            StoreError: it cannot be run.
        """
        for attempt in range(2):
            try:
                if self._connection is None:
                    self._connection = self._connect()
                # Statements are constants of the store, and the driver takes no other text than a literal.
                cursor = self._connection.execute(statement.replace("?", "%s").encode(), parameters)
                return cursor.fetchall() if cursor.description else []
            except (self._psycopg.Error, SpecError) as error:
                lost = self._connection is None or self._connection.closed
                if lost:
                    self._connection = None
                if not lost or attempt:
                    raise StoreError(str(error).strip()) from error
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def _connect(self) -> "psycopg.Connection[tuple[Any, ...]]":
        try:
            connection = self._psycopg.connect(self._url, autocommit=True, connect_timeout=10)
        except self._psycopg.Error as error:
            raise StoreError(f"cannot connect: {str(error).strip()}") from error
        end = time.monotonic() + LOCK_WAIT_S
        while True:
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (ADVISORY_LOCK,)).fetchone()
            if row and row[0]:
                return connection
            if time.monotonic() > end:
                connection.close()
                raise SpecError("is used by another server; accepted: a database for each", field="--store")
            time.sleep(LOCK_POLL_S)
