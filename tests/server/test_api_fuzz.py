"""Hostile scenarios, configurations and plans over HTTP: an answer or a problem, never a 5xx, and never for long.

`CLEAVE_API_FUZZ=1000` sends that many; the suite sends fewer of the same sequence.
"""

import copy
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import yaml

from tests.fuzz.documents import hostile, leaves, parent
from tests.server.live import CONFIGURATION, SCENARIO, LiveServer

CASES = int(os.environ.get("CLEAVE_API_FUZZ", "60"))
LIMIT_S = 45.0
"""For one answer; what is not refused at once is planned for a second at most, and its answer is awaited so long."""


ODD_NUMBERS = (1, 2, 3, 8, 16, 64, 256, 1000, 4096, 20000, 0.5, 7.5, 1e-3, 1e5)


def odd(document: Any, generator: random.Random) -> Any:
    """A variant whose numbers are unusual, and mostly accepted."""
    changed = copy.deepcopy(document)
    numbers = [
        path for path in leaves(changed) if type(value := parent(changed, path)[path[-1]]) in (int, float) and value
    ]
    for path in generator.sample(numbers, min(len(numbers), generator.randrange(1, 4))):
        parent(changed, path)[path[-1]] = generator.choice(ODD_NUMBERS)
    return changed


def text_of(document: Any, generator: random.Random) -> tuple[bytes, str]:
    """A body and its type, some of them damaged."""
    if generator.random() < 0.5:
        text, kind = json.dumps(document), "application/json"
    else:
        text, kind = yaml.dump(document, allow_unicode=True), "application/yaml"
    data = text.encode("utf-8", "surrogatepass")
    if generator.random() < 0.1:
        place = generator.randrange(len(data))
        data = data[:place] + generator.choice([b"", b"\xff", b"{", b"&a *a", b"\x00"]) + data[place + 3 :]
    return data, kind


def test_hostile_documents_are_answered(server: LiveServer) -> None:
    generator = random.Random(20260529)
    job = server.ask(wait_s=30).json()
    scenario, configuration, plan = yaml.safe_load(SCENARIO), yaml.safe_load(CONFIGURATION), job["plan"]
    targets = server.client.get("/v1/targets").json()["targets"]
    asks: list[Callable[[], tuple[str, Any]]] = [
        lambda: ("/v1/plans?time_limit_s=1&wait_s=0", scenario),
        lambda: ("/v1/plans?time_limit_s=1&wait_s=0&explain=none&formulation=piecewise", scenario),
        lambda: ("/v1/comparisons?time_limit_s=1&wait_s=0&pareto=false", scenario),
        lambda: ("/v1/scenarios/validate", scenario),
        lambda: ("/v1/predictions?wait_s=0", configuration),
        lambda: (f"/v1/render?target={generator.choice(targets)}", plan),
        lambda: ("/v1/report", plan),
    ]
    answers: Counter[int] = Counter()
    ends: Counter[str] = Counter()
    slowest_s = 0.0
    for _ in range(CASES):
        path, document = generator.choice(asks)()
        change = odd if generator.random() < 0.4 else hostile
        data, kind = text_of(change(document, generator), generator)
        start = time.monotonic()
        response = server.client.post(path, content=data, headers={"Content-Type": kind})
        answers[response.status_code] += 1
        assert response.status_code < 500, (path, data, response.text)
        if response.status_code in (201, 202):
            place = response.headers["location"]
            try:
                ended = server.finished(place, LIMIT_S)
            except AssertionError:
                server.client.post(f"{place}/cancel")
                raise
            ends[ended["status"]] += 1
            problem = ended["error"] or {"status": 0}
            assert problem["status"] < 500, (path, data, problem)
        taken_s = time.monotonic() - start
        assert taken_s < LIMIT_S, (path, data)
        slowest_s = max(slowest_s, taken_s)
    print(f"{CASES} documents: {dict(answers)}, jobs {dict(ends)}, slowest {slowest_s:.1f} s")
    health = server.client.get("/healthz").json()
    assert health["status"] == "ok"
    assert sum(answers.values()) == CASES
    assert answers[422] > 0 < answers[202], answers


def test_hostile_requests_are_answered(server: LiveServer) -> None:
    generator = random.Random(7)
    words = ["v1", "plans", "..", "%2e%2e", "%00", "files", "catalog", "models", "x" * 300, "é", "", "healthz", "'"]
    for _ in range(100):
        path = "/" + "/".join(generator.choice(words) for _ in range(generator.randrange(1, 6)))
        query = generator.choice(["", "?wait_s=nan", "?wait_s=1e999", "?limit=%00", "?gap=&gap=", "?" + "a=1&" * 200])
        response = server.client.request(generator.choice(["GET", "POST", "PUT", "HEAD", "OPTIONS"]), path + query)
        assert response.status_code < 500, (path, response.text)
    assert isinstance(response, httpx.Response)
