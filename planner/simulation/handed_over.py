"""A closed-loop run of a P/D deployment: prompts on prefill workers, answers on decode workers.

The router sends a prompt to the prefill worker with the fewest tokens before it, and a computed prompt, once its KV
cache has travelled, to the decode worker with the fewest requests; there it waits for a slot, and begins with the next
step. The requests of a decode worker are spread evenly over its DP ranks. Between equal workers the first is chosen.
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
        first_token_steps: decode steps before the client sees the first token: 0 where it comes from the prefill
            worker, 1 where it comes with the first step on the decode worker.
        recomputes_last_token: whether that step computes it; otherwise the prefill worker has, and the step yields the
            second as well.
    """

    prefill: StepTimes
    prefill_workers: int
    decode: StepTimes
    decode_workers: int
    slots: int
    transfer_ms: float
    first_token_steps: int
    recomputes_last_token: bool = False

    def __post_init__(self) -> None:
        if self.first_token_steps not in (0, 1):
            raise ValueError(f"first_token_steps must be 0 or 1, got {self.first_token_steps}")
        if self.recomputes_last_token and not self.first_token_steps:
            raise ValueError("what recomputes the last prompt token has the first token from its decode step")

    def decode_steps(self, output_tokens: float) -> int:
        """Steps of an answer on a decode worker."""
        later = self.decode.decode_steps(output_tokens)
        return later + 1 if self.recomputes_last_token else max(later, self.first_token_steps)


@dataclass
class _Prefill:
    """A prefill worker.

    Args:
        waiting: prompts not yet computed, as [request, tokens left].
        computing: requests whose prompts end with the running step.
        taken: tokens of the running step.
        busy: whether a step runs.
    """

    waiting: deque[list[int]] = field(default_factory=deque)
    computing: list[int] = field(default_factory=list)
    taken: int = 0
    busy: bool = False


@dataclass
class _Decode:
    """A decode worker whose batch stays as it is until the event `due`.

    Args:
        clock_ms: when that batch began.
        step: steps done by then.
        step_ms: of that batch.
        steps: from then on until `due`.
        active: requests in flight, a heap of (last step, request).
        waiting: who waits for the next step and a slot.
        due: number of the event at which the batch changes; -1 when idle.
    """

    clock_ms: float = 0.0
    step: int = 0
    step_ms: float = 0.0
    steps: int = 0
    active: list[tuple[int, int]] = field(default_factory=list)
    waiting: deque[int] = field(default_factory=deque)
    due: int = -1


_ARRIVED, _COMPUTED, _CACHED, _CHANGED = range(4)


def run_pair(pair: Pair, policy: Policy, clients: int, requests: Requests) -> Run:
    """Simulate a closed loop on a P/D deployment.

    Args:
        pair: the workers.
        policy: of the engine; `budget` is that of one lane of a prefill worker. How engines load prefixes, mix prompts
            with decoding, look for them, hold them back and are late for the batch is left out: prefill workers decode
            nothing, and decode workers take with every step what has come.
        clients: requests that the clients keep in the system.
        requests: of the run.
    """
    inputs, outputs = requests.input_tokens.astype(int).tolist(), requests.output_tokens.tolist()
    count, lanes = len(inputs), pair.prefill.lanes
    most = policy.budget * pair.prefill.stages
    prefill = [_Prefill() for _ in range(pair.prefill_workers)]
    decode = [_Decode() for _ in range(pair.decode_workers)]
    # What the router goes by: tokens not yet computed, those of the running step included, and requests.
    queued, loads = [0] * pair.prefill_workers, [0] * pair.decode_workers
    decode_ms = [
        pair.decode.decode_step_ms(math.ceil(batch / pair.decode.lanes), batch) for batch in range(pair.slots + 1)
    ]
    decode_steps = [pair.decode_steps(tokens) for tokens in outputs]
    events: list[tuple[float, int, int, int]] = []  # (when, number, kind, subject)
    number, sent, done, server_free, now = 0, 0, 0, 0.0, 0.0
    sent_ms, first_ms = [0.0] * count, [0.0] * count
    ttft: list[float] = []
    tpot: list[float] = []

    def push(when: float, kind: int, subject: int) -> int:
        nonlocal number
        number += 1
        heapq.heappush(events, (when, number, kind, subject))
        return number

    def send() -> None:
        nonlocal sent, server_free
        if sent < count:
            sent_ms[sent] = now
            server_free = max(server_free, now) + policy.ready_ms(inputs[sent])
            push(server_free, _ARRIVED, sent)
            sent += 1

    def see_first(request: int, when: float) -> None:
        first_ms[request] = when
        ttft.append(when - sent_ms[request] + policy.delay_ms)

    def compute(index: int) -> None:
        """Start the next step of a prefill worker."""
        worker = prefill[index]
        worker.busy = bool(worker.waiting)
        worker.computing, worker.taken = [], 0
        if not worker.waiting:
            return
        room = [most] * lanes
        parts: list[list[int]] = []
        while worker.waiting:
            space = max(room)
            if not space:
                break
            request, left = worker.waiting.popleft()
            part = space if space < left else left
            room[room.index(space)] = space - part
            worker.taken += part
            if part == left:
                worker.computing.append(request)
            else:
                parts.append([request, left - part])
        worker.waiting.extendleft(reversed(parts))
        push(now + pair.prefill.mixed_ms([0] * lanes, [most - left for left in room]), _COMPUTED, index)

    def change(index: int) -> None:
        """End what has ended on a decode worker, fill its slots, and run until the batch changes again."""
        nonlocal done
        worker = decode[index]
        worker.step += worker.steps
        while worker.active and worker.active[0][0] <= worker.step:
            _, request = heapq.heappop(worker.active)
            if outputs[request] > 1:
                tpot.append((now - first_ms[request]) / (outputs[request] - 1.0))
            done += 1
            loads[index] -= 1
            send()
        joining = [worker.waiting.popleft() for _ in range(min(len(worker.waiting), pair.slots - len(worker.active)))]
        for request in joining:
            heapq.heappush(worker.active, (worker.step + decode_steps[request], request))
        worker.clock_ms, worker.step_ms, worker.steps, worker.due = now, decode_ms[len(worker.active)], 0, -1
        if pair.first_token_steps:
            for request in joining:
                see_first(request, now + worker.step_ms)
        if worker.active:
            worker.steps = worker.active[0][0] - worker.step
            worker.due = push(now + worker.steps * worker.step_ms, _CHANGED, index)

    for _ in range(min(clients, count)):
        send()
    while done < count:
        now, event, kind, subject = heapq.heappop(events)
        if kind == _ARRIVED:
            index = queued.index(min(queued))
            worker = prefill[index]
            worker.waiting.append([subject, inputs[subject]])
            queued[index] += inputs[subject]
            if not worker.busy:
                # Starts after all that arrives at this moment.
                worker.busy = True
                push(now, _COMPUTED, index)
        elif kind == _COMPUTED:
            queued[subject] -= prefill[subject].taken
            for request in prefill[subject].computing:
                if not pair.first_token_steps:
                    see_first(request, now)
                if pair.first_token_steps or outputs[request] > 1:
                    push(now + pair.transfer_ms, _CACHED, request)
                else:
                    done += 1
                    send()
            compute(subject)
        elif kind == _CACHED:
            index = loads.index(min(loads))
            loads[index] += 1
            target = decode[index]
            target.waiting.append(subject)
            if target.due < 0:
                target.due = push(now, _CHANGED, index)
            elif target.steps and len(target.active) < pair.slots:
                # The running step ends first.
                steps = min(int((now - target.clock_ms) / target.step_ms) + 1, target.steps)
                if steps < target.steps:
                    target.steps = steps
                    target.due = push(target.clock_ms + steps * target.step_ms, _CHANGED, index)
        elif event == decode[subject].due:
            change(subject)
    return Run(np.array(ttft), np.array(tpot), float(requests.output_tokens.sum()), now)
