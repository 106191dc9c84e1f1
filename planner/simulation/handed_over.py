"""A closed-loop run of a P/D deployment: prompts on prefill workers, answers on decode workers.

The router sends a prompt to the prefill worker with the fewest tokens before it, and a computed prompt, once its KV
cache has travelled, to the decode worker with the fewest requests; there it waits for a slot.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from planner.simulation.closed_loop import Policy, Requests, Run
from planner.simulation.steps import StepTimes


@dataclass(frozen=True)
class Pair:
    """The workers of a P/D deployment.

    Args:
        prefill: step times of one prefill worker.
        prefill_workers: how many.
        decode: step times of one decode worker.
        decode_workers: how many.
        slots: requests in flight of one decode worker.
        transfer_ms: time of one request's KV cache on its way, as far as it is not hidden.
        first_token_steps: decode steps before the client sees the first token.
    """

    prefill: StepTimes
    prefill_workers: int
    decode: StepTimes
    decode_workers: int
    slots: int
    transfer_ms: float
    first_token_steps: int


@dataclass
class _Prefill:
    """A prefill worker: prompts that wait, by request and tokens left, and when its step ends."""

    waiting: deque[list[float]] = field(default_factory=deque)
    tokens: float = 0.0
    busy: bool = False


@dataclass
class _Decode:
    """A decode worker: steps done at `clock_ms`, last steps of its requests, and who waits for a slot."""

    clock_ms: float = 0.0
    step: int = 0
    active: list[tuple[int, int]] = field(default_factory=list)
    waiting: deque[int] = field(default_factory=deque)
    version: int = 0

    @property
    def load(self) -> int:
        return len(self.active) + len(self.waiting)


_ARRIVED, _COMPUTED, _CACHED, _ENDED = range(4)


def run_pair(pair: Pair, policy: Policy, clients: int, requests: Requests) -> Run:
    """Simulate a closed loop on a P/D deployment.

    Args:
        pair: the workers.
        policy: of the engine; `budget` is that of one lane of a prefill worker.
        clients: requests that the clients keep in the system.
        requests: of the run.
    """
    inputs, outputs = requests.input_tokens.tolist(), requests.output_tokens.tolist()
    count, lanes = len(inputs), pair.prefill.lanes
    prefill = [_Prefill() for _ in range(pair.prefill_workers)]
    decode = [_Decode() for _ in range(pair.decode_workers)]
    step_ms = pair.decode.decode_ms.tolist()
    decode_lanes = pair.decode.lanes
    events: list[tuple[float, int, int, int]] = []  # (when, order, kind, subject)
    order, sent, done, server_free, now = 0, 0, 0, 0.0, 0.0
    sent_ms, first_ms = [0.0] * count, [0.0] * count
    computing: dict[int, list[int]] = {}
    ttft: list[float] = []
    tpot: list[float] = []

    def push(when: float, kind: int, subject: int) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (when, order, kind, subject))

    def send(when: float) -> None:
        nonlocal sent, server_free
        if sent < count:
            sent_ms[sent] = when
            server_free = max(server_free, when) + policy.ready_ms(inputs[sent])
            push(server_free, _ARRIVED, sent)
            sent += 1

    def compute(index: int) -> None:
        """Start the next step of an idle prefill worker."""
        worker = prefill[index]
        if worker.busy or not worker.waiting:
            return
        room = [policy.budget] * lanes
        finished: list[int] = []
        for entry in list(worker.waiting):
            lane = max(range(lanes), key=room.__getitem__)
            part = min(room[lane], entry[1])
            if part <= 0:
                break
            room[lane] -= part
            entry[1] -= part
            worker.tokens -= part
            if entry[1] <= 0:
                finished.append(int(entry[0]))
        while worker.waiting and worker.waiting[0][1] <= 0:
            worker.waiting.popleft()
        taken = [int(policy.budget - left) for left in room]
        worker.busy = True
        computing[index] = finished
        push(now + pair.prefill.mixed_ms([0] * lanes, taken), _COMPUTED, index)

    def step_of(worker: _Decode) -> float:
        return step_ms[min(math.ceil(len(worker.active) / decode_lanes), len(step_ms) - 1)]

    def advance(worker: _Decode) -> None:
        """Bring a decode worker to its last step's end before now."""
        if not worker.active:
            worker.clock_ms = now
            return
        steps = int((now - worker.clock_ms) / step_of(worker) + 1e-9)
        worker.step += steps
        worker.clock_ms += steps * step_of(worker)

    def settle(index: int) -> None:
        """End what has ended, fill slots, and say when the next answer ends."""
        nonlocal done
        worker = decode[index]
        while worker.active and worker.active[0][0] <= worker.step:
            _, request = heapq.heappop(worker.active)
            if outputs[request] > 1:
                tpot.append((now - first_ms[request]) / (outputs[request] - 1.0))
            done += 1
            send(now)
        while worker.waiting and len(worker.active) < pair.slots:
            request = worker.waiting.popleft()
            # Who comes while a step runs begins with the next one.
            joins = 1 if worker.active else 0
            begins = worker.clock_ms + joins * step_of(worker)
            heapq.heappush(worker.active, (worker.step + joins + int(outputs[request]) - 1, request))
            if pair.first_token_steps:
                first_ms[request] = begins + pair.first_token_steps * step_of(worker)
                ttft.append(first_ms[request] - sent_ms[request])
        worker.version += 1
        if worker.active:
            steps = max(worker.active[0][0] - worker.step, 1)
            versions[order + 1] = worker.version
            push(worker.clock_ms + steps * step_of(worker), _ENDED, index)

    versions: dict[int, int] = {}
    for _ in range(min(clients, count)):
        send(0.0)
    while done < count:
        now, number, kind, subject = heapq.heappop(events)
        if kind == _ARRIVED:
            index = min(range(len(prefill)), key=lambda i: prefill[i].tokens)
            prefill[index].waiting.append([subject, inputs[subject]])
            prefill[index].tokens += inputs[subject]
            compute(index)
        elif kind == _COMPUTED:
            prefill[subject].busy = False
            for request in computing.pop(subject):
                if not pair.first_token_steps:
                    first_ms[request] = now
                    ttft.append(now - sent_ms[request])
                push(now + pair.transfer_ms, _CACHED, request)
            compute(subject)
        elif kind == _CACHED:
            index = min(range(len(decode)), key=lambda i: decode[i].load)
            advance(decode[index])
            decode[index].waiting.append(subject)
            settle(index)
        elif versions.pop(number) == decode[subject].version:
            advance(decode[subject])
            settle(subject)
    return Run(np.array(ttft), np.array(tpot), float(requests.output_tokens.sum()), now)
