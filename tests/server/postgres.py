"""A PostgreSQL server of the tests' own, on a socket in a folder of its own."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

USER = "postgres"
"""PostgreSQL does not run as root; tests that do run it as this user."""


def why_not() -> str | None:
    """Why there is none here, if so."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed"
    if shutil.which("initdb") is None or shutil.which("postgres") is None:
        return "PostgreSQL (initdb, postgres) is not on the path"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            return f"PostgreSQL does not run as root, and there is no user {USER}"
    return None


class Postgres:
    """The server, until the end of a `with`."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cleave-pg-"))
        self._databases = 0
        user = USER if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(self._folder, user)
        data = str(self._folder / "data")
        initdb = ["initdb", "-D", data, "-U", "cleave", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]
        subprocess.run(initdb, check=True, user=user, cwd=self._folder, stdout=subprocess.DEVNULL)
        options = f"-c listen_addresses= -c unix_socket_directories={self._folder} -c fsync=off"
        self._control = ["pg_ctl", "-D", data, "-w", "-l", str(self._folder / "log"), "-o", options]
        self._user = user
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def empty_database(self) -> str:
        """URL of a new database."""
        import psycopg

        self._databases += 1
        name = f"jobs{self._databases}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._url(name)

    def start(self) -> None:
        """Start it."""
        self._run("start")

    def stop(self) -> None:
        """Stop it without a word to its clients."""
        self._run("stop", "-m", "immediate")

    def restart(self) -> None:
        """Break every connection."""
        self._run("restart", "-m", "immediate")

    def _url(self, database: str) -> str:
        return f"postgresql://cleave@/{database}?host={self._folder}"

    def _run(self, *words: str) -> None:
        command = [*self._control, *words]
        subprocess.run(command, check=True, user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL)
