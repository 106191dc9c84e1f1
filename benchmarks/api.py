"""Many small questions at once: `python benchmarks/api.py`.

Starts a server, asks 200 plans of it at the same time, each by a client of its own that asks again until its plan is
there, and prints how long they took. Fails where one is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx

CLEAVE = str(Path(sys.executable).with_name("cleave"))
YAML = {"Content-Type": "application/yaml"}
MOST_S = 600.0
SCENARIO = """\
schema: cleave.scenario/1
cluster: {{pools: [{{name: h100, gpu: h100-sxm-80gb, count: {gpus}}}]}}
services:
  - name: chat
    model: meta-llama/Llama-3.1-8B
    kernels: analytic
    modes: [aggregated, prefill_decode]
    workload: {{input_tokens: {tokens}, output_tokens: 256}}
    slo: {{ttft_ms: 300, tpot_ms: 20}}
objective: {{maximize: throughput}}
"""
"""Every question is another one."""


@dataclass(frozen=True)
class Answer:
    """What one client saw.

    Args:
        status: of its job; `lost` where it never ended.
        accepted_s: seconds until the job had an id.
        finished_s: seconds until it had a plan.
    """

    status: str
    accepted_s: float
    finished_s: float


async def ask(client: httpx.AsyncClient, number: int) -> Answer:
    """One client."""
    start_s = time.perf_counter()
    text = SCENARIO.format(gpus=8 * (1 + number % 4), tokens=512 + number)
    response = await client.post("/v1/plans", content=text, headers=YAML, params={"wait_s": 0})
    accepted_s = time.perf_counter() - start_s
    job = response.raise_for_status().json()
    while not job["finished"] and time.perf_counter() - start_s < MOST_S:
        answer = await client.get(f"/v1/plans/{job['id']}", params={"wait_s": 30})
        job = answer.raise_for_status().json()
    status = job["status"] if job["finished"] else "lost"
    return Answer(status, accepted_s, time.perf_counter() - start_s)


async def ask_all(url: str, count: int) -> tuple[list[Answer], float]:
    """All clients at once, and the seconds that they took together."""
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(base_url=url, timeout=120.0, limits=limits) as client:
        while not (await client.get("/healthz")).json()["workers"]:
            await asyncio.sleep(0.1)
        start_s = time.perf_counter()
        answers = await asyncio.gather(*(ask(client, number) for number in range(count)))
        return list(answers), time.perf_counter() - start_s


def greeted(server: subprocess.Popen[bytes], said: Path) -> str:
    """The address of a server that has started."""
    while not (found := re.search(r"http://\S+", said.read_text())):
        assert server.poll() is None, f"the server did not start: {said.read_text()}"
        time.sleep(0.05)
    return found[0]


def percentile(values: list[float], share: float) -> float:
    """The value that a share of them does not pass."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> int:
    """Run the benchmark; 1 where a request was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [CLEAVE, "serve", "--port", "0", "--workers", str(arguments.workers)]
        store = f"sqlite:///{folder}/jobs.sqlite3"
        said = Path(folder, "said")  # a pipe that nobody reads would stop a server with much to say
        with said.open("w") as stderr:
            server = subprocess.Popen([*command, "--store", store], stderr=stderr)
        try:
            answers, seconds = asyncio.run(ask_all(greeted(server, said), arguments.requests))
        finally:
            server.terminate()
            server.wait()
    states = Counter(answer.status for answer in answers)
    print(
        f"{arguments.requests} requests at once, {arguments.workers} workers, {os.cpu_count()} cores: {seconds:.1f} s"
    )
    print(f"answers: {dict(states)}")
    for name in ("accepted_s", "finished_s"):
        values = [getattr(answer, name) for answer in answers]
        figures = ", ".join(f"p{share:.0%} {percentile(values, share):.2f} s".replace("%", "") for share in (0.5, 0.95))
        print(f"{name.removesuffix('_s')}: {figures}, most {max(values):.2f} s")
    return int(set(states) != {"optimal"})


if __name__ == "__main__":
    sys.exit(main())
