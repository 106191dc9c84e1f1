from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.live import LiveServer
from tests.server.postgres import Postgres, why_not


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all tests that do it no harm."""
    with LiveServer(f"sqlite:///{tmp_path_factory.mktemp('store')}/jobs.sqlite3", "--workers", "1") as live:
        yield live


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Postgres() as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.sqlite3"
    cluster: Postgres = request.getfixturevalue("postgres")
    return cluster.empty_database()
