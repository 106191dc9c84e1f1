"""The store alone, on both databases."""

import asyncio
from dataclasses import replace

import pytest

from planner.server import database
from planner.server.database import SqliteDatabase, StoreError, connect
from planner.server.job import JobKind, JobStatus
from planner.server.record import Record, new_id
from planner.server.store import Store
from specs.errors import SpecError
from tests.server.postgres import Postgres


def record(key: str | None = None, kind: JobKind = JobKind.PLAN) -> Record:
    return Record(new_id(), kind, JobStatus.QUEUED, 1.5, '{"what": "\\u0000 and \U0001f642"}', key)


def test_jobs_are_kept_as_they_are(store_url: str) -> None:
    async def check() -> None:
        store = Store(store_url)
        await store.open()
        first, second = record("key"), record()
        assert await store.insert(first) is None
        assert await store.insert(second) is None
        assert await store.insert(record("key")) == first
        assert await store.insert(record("key", JobKind.COMPARISON)) is None
        assert await store.get(JobKind.PLAN, first.id) == first
        assert await store.get(JobKind.COMPARISON, first.id) is None
        assert await store.by_key(JobKind.PLAN, "key") == first
        newest = await store.newest(JobKind.PLAN, 5)
        assert [each.head() for each in newest] == [second.head(), first.head()]
        assert {each.question for each in newest} == {""}  # heads alone are read
        ended = replace(
            first, status=JobStatus.OPTIMAL, attempts=1, started_at=2.0, finished_at=3.0, result="{}", progress="[1]"
        )
        await store.save(ended)
        assert [each.id for each in await store.unfinished() if each.kind is JobKind.PLAN] == [second.id]
        await store.close()
        again = Store(store_url)
        await again.open()
        assert await again.get(JobKind.PLAN, first.id) == ended
        await again.close()

    asyncio.run(check())


def test_a_store_has_one_server(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_WAIT_S", 0.2)
    first = connect(store_url)
    with pytest.raises(SpecError, match="is used by another server"):
        connect(store_url)
    first.close()
    connect(store_url).close()


def test_a_database_that_restarts_is_found_again(postgres: Postgres) -> None:
    async def check() -> None:
        store = Store(postgres.empty_database())
        await store.open()
        await store.insert(first := record())
        postgres.restart()
        assert await store.get(JobKind.PLAN, first.id) == first
        postgres.stop()
        with pytest.raises(StoreError):
            await store.check()
        postgres.start()
        await store.save(first)
        await store.close()

    asyncio.run(check())


def test_ids_sort_by_time_and_differ() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == len(ids)
    assert [each[:10] for each in ids] == sorted(each[:10] for each in ids)
    assert all(len(each) == 26 for each in ids)


@pytest.mark.parametrize("url", ["", "jobs.sqlite3", "mysql://localhost/jobs", "sqlite:jobs", "sqlite:////proc/x/y"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(SpecError) as refused:
        connect(url)
    assert refused.value.field == "--store"


def test_a_store_of_another_version_is_refused(tmp_path: object) -> None:
    path = f"{tmp_path}/jobs.sqlite3"
    tables = SqliteDatabase(path)
    tables.run("CREATE TABLE cleave_store (version INTEGER NOT NULL)")
    tables.run("INSERT INTO cleave_store VALUES (99)")
    with pytest.raises(StoreError):
        tables.run("SELECT nothing")
    tables.close()
    with pytest.raises(SpecError, match="is of version 99"):
        asyncio.run(Store(f"sqlite:///{path}").open())
