"""What becomes of jobs when the server ends, orderly or not."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from planner.server.crew import Crew
from planner.server.desk import Desk
from planner.server.job import JobKind, JobStatus
from planner.server.metrics import Metrics
from planner.server.record import Record, new_id
from planner.server.settings import Settings
from planner.server.store import Store
from tests.server.live import LONG, SCENARIO, SLOW, YAML, LiveServer, gone

JOBS = 20
OPTIONS = ("--workers", "1")


def test_every_job_outlives_a_killed_server(store_url: str) -> None:
    live = LiveServer(store_url, *OPTIONS)
    finished = live.ask(wait_s=20).json()
    running = live.ask(SLOW, wait_s=0.5, explain="none").json()
    assert running["status"] == "running"
    jobs = [
        live.client.post(
            "/v1/plans",
            content=SCENARIO,
            headers={**YAML, "Idempotency-Key": f"job-{i}"},
            params={"wait_s": 0, "explain": "none"},
        ).json()
        for i in range(JOBS - 1)
    ]
    workers = live.workers()
    live.kill()
    assert all(gone(pid) for pid in workers), "workers outlive their server"
    with LiveServer(store_url, *OPTIONS) as again:
        assert again.client.get(f"/v1/plans/{finished['id']}").json() == finished
        ended = [again.finished(f"/v1/plans/{job['id']}") for job in (running, *jobs)]
        assert [job["id"] for job in ended] == [running["id"], *(job["id"] for job in jobs)]
        assert {job["status"] for job in ended[1:]} == {"optimal"}
        assert ended[0]["status"] == "optimal"  # run once more
        repeated = again.client.post(
            "/v1/plans",
            content=SCENARIO,
            headers={**YAML, "Idempotency-Key": "job-0"},
            params={"wait_s": 0, "explain": "none"},
        )
        assert repeated.json()["id"] == jobs[0]["id"]


def test_a_job_that_saw_two_servers_killed_is_given_up() -> None:
    async def check() -> None:
        settings = Settings(store="sqlite://", workers=1)
        store, metrics = Store(settings.store), Metrics()
        await store.open()
        once = Record(new_id(), JobKind.PLAN, JobStatus.RUNNING, 1.0, "{}", attempts=1, started_at=1.0)
        twice = Record(new_id(), JobKind.PLAN, JobStatus.RUNNING, 1.0, "{}", attempts=2, started_at=1.0)
        for record in (once, twice):
            await store.insert(record)
        desk = Desk(store, Crew(settings, lambda reason: None), settings, metrics)
        await desk.start()
        assert (await desk.find(JobKind.PLAN, once.id)).record.status is JobStatus.QUEUED
        given_up = desk.document(await desk.find(JobKind.PLAN, twice.id))
        assert (given_up["status"], given_up["finished"]) == ("failed", True)
        assert "restarted" in given_up["error"]["detail"]
        await desk.stop()

    asyncio.run(check())


def test_an_orderly_end_is_quick_and_costs_nothing(tmp_path: Path) -> None:
    store_url = f"sqlite:///{tmp_path}/jobs.sqlite3"
    live = LiveServer(store_url, *OPTIONS)
    job = live.ask(LONG, wait_s=0).json()
    workers = live.workers()
    with live.client.stream("GET", f"/v1/plans/{job['id']}/events") as events:
        next(line for line in events.iter_lines() if line == "event: progress")
        start = time.monotonic()
        assert live.stop() == 0
    assert time.monotonic() - start < 5.0
    assert all(gone(pid, 1.0) for pid in workers)

    async def kept() -> list[Record]:
        store = Store(store_url)
        await store.open()
        return await store.unfinished()

    (record,) = asyncio.run(kept())
    assert (record.id, record.status, record.attempts) == (job["id"], JobStatus.QUEUED, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_every_process_costs_nothing(tmp_path: Path, number: int) -> None:
    live = LiveServer(f"sqlite:///{tmp_path}/jobs.sqlite3", *OPTIONS)
    job = live.ask(LONG, wait_s=0).json()
    with live.client.stream("GET", f"/v1/plans/{job['id']}/events") as events:
        next(line for line in events.iter_lines() if line == "event: progress")
        for pid in (*live.workers(), live.process.pid):  # the workers first
            os.kill(pid, number)
        assert live.stop() == 0
    with LiveServer(f"sqlite:///{tmp_path}/jobs.sqlite3", *OPTIONS) as again:
        kept = again.client.get(f"/v1/plans/{job['id']}").json()
        assert kept["status"] in ("queued", "running")
        assert again.client.post(f"/v1/plans/{job['id']}/cancel").json()["status"] == "cancelled"
