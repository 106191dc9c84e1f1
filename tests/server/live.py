"""A server as users run it: `cleave serve` in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx
import jsonschema

from planner.server.problem import MEDIA_TYPE, Problem

CLEAVE = Path(sys.executable).with_name("cleave")
YAML = {"Content-Type": "application/yaml"}
START_S = 60.0
ENDED_S = 20.0

SCENARIO = """\
# A small question.
schema: cleave.scenario/1
cluster:
  pools:
    - {name: h100, gpu: h100-sxm-80gb, count: 4}
services:
  - name: chat
    model: meta-llama/Llama-3.1-8B
    kernels: analytic
    modes: [aggregated]
    workload: {input_tokens: 1024, output_tokens: 256}
    slo: {ttft_ms: 300, tpot_ms: 20}
objective: {maximize: throughput}
"""
IMPOSSIBLE = SCENARIO.replace("ttft_ms: 300", "ttft_ms: 0.5")
LONG = """\
# A question that takes seconds.
schema: cleave.scenario/1
cluster:
  pools:
    - {name: h100, gpu: h100-sxm-80gb, count: 256}
services:
  - name: chat
    model: Qwen/Qwen3-30B-A3B
    workload: {input_tokens: 4000, output_tokens: 500}
    slo: {ttft_ms: 1000, tpot_ms: 25}
    launchable: false
objective: {maximize: throughput}
"""
SLOW = LONG.replace("count: 256", "count: 64")
"""A question that takes a second or two."""
CONFIGURATION = """\
schema: cleave.configuration/1
model: meta-llama/Llama-3.1-8B
gpu: h100-sxm-80gb
kernels: analytic
workload: {input_tokens: 1024, output_tokens: 256, arrival: {process: closed_loop, concurrency: 8}}
worker: {tp: 1}
"""


class LiveServer:
    """`cleave serve` on a free port, until the end of a `with`.

    Args:
        store: URL.
        options: further arguments.
        token: that its client sends.
    """

    def __init__(self, store: str, *options: str, token: str | None = None) -> None:
        command = [str(CLEAVE), "serve", "--port", "0", "--store", store, *options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CLEAVE_")}
        if token is not None:
            environment["CLEAVE_TOKEN"] = token
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        said = []
        while not (found := re.search(r"http://[^ ]+", said[-1] if said else "")):
            line = self.process.stderr.readline()
            assert line, f"the server did not start: {''.join(said)}"
            said.append(line)
        self.url = found[0]
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.client = httpx.Client(base_url=self.url, timeout=60.0, headers=headers)
        self._await_answers()
        self._description = self.client.get("/openapi.json").json()
        self.client.event_hooks["response"] = [self._check_described]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        self.client.close()
        self.process.terminate()
        try:
            self.process.communicate(timeout=ENDED_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode

    def kill(self) -> None:
        """End it as the machine would."""
        self.client.close()
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=ENDED_S)

    def workers(self) -> list[int]:
        """Ids of its worker processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def ask(self, text: str = SCENARIO, **parameters: Any) -> httpx.Response:
        """Post a scenario in YAML."""
        return self.client.post("/v1/plans", content=text, headers=YAML, params=parameters)

    def finished(self, path: str, limit_s: float = 60.0) -> dict[str, Any]:
        """Wait for the end of a job."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            job: dict[str, Any] = self.client.get(path, params={"wait_s": 20}).raise_for_status().json()
            if job["finished"]:
                return job
        raise AssertionError(f"{path} does not end: {job}")

    def _check_described(self, response: httpx.Response) -> None:
        """Hold every answer against the description: status, media type, schema and promised headers."""
        for template, methods in self._description["paths"].items():
            operation = methods.get(response.request.method.lower())
            pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)).replace("/models/[^/]+", "/models/.+")
            if operation is None or not re.fullmatch(pattern, response.request.url.path):
                continue
            where = f"{response.request.method} {template} {response.status_code}"
            answer = operation["responses"].get(str(response.status_code))
            assert answer is not None, f"{where} is not described"
            kind = response.headers["content-type"].partition(";")[0]
            assert kind in answer["content"], f"{where} of {kind} is not described"
            assert all(name in response.headers for name in answer.get("headers", {})), where
            if kind in ("application/json", MEDIA_TYPE):
                response.read()
                schema = {**answer["content"][kind]["schema"], "components": self._description["components"]}
                jsonschema.validate(response.json(), schema)
            return

    def _await_answers(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert self.process.poll() is None, "the server has ended"
            try:
                if self.client.get("/healthz").json()["workers"]:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError("the server has no worker")


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem that a request ended in."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    found = Problem.model_validate_json(response.text)
    assert found.status == status
    assert found.detail
    document: dict[str, Any] = response.json()
    return document


def gone(pid: int, limit_s: float = ENDED_S) -> bool:
    """Whether a process ends within a time."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False
