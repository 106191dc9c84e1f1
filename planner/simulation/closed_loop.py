"""A closed-loop run of one server, request by request.

Clients send their first requests together and another one as soon as an answer is complete, until all requests of the
run have been sent: what serving benchmarks do. The mean TTFT of such a run includes the start, when every client waits
behind all others; in the steady state prompts arrive spread out.

A request first passes the API server (tokenisation, validation, hand-over), which takes requests one after the other,
then waits for a slot and for its prompt to be computed, and decodes one token a step. What a step takes comes from
`planner.simulation.steps`.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass
from itertools import islice

import numpy as np

from planner.costs.linear import FloatArray
from planner.simulation.steps import StepTimes
from specs.workload import DiscreteLength, Length, LengthOrZero, MeanLength


@dataclass(frozen=True, eq=False)
class Requests:
    """The requests of a run in the order in which they are sent.

    Args:
        input_tokens: shape (n,), whole numbers >= 1.
        output_tokens: shape (n,), whole numbers >= 1.
    """

    input_tokens: FloatArray
    output_tokens: FloatArray

    @staticmethod
    def of(input_tokens: Length, output_tokens: Length, count: int, seed: int = 0) -> Requests:
        """Random requests with the lengths of a workload."""
        generator = np.random.default_rng(seed)
        return Requests(sample(input_tokens, count, generator), sample(output_tokens, count, generator))


def sample(length: LengthOrZero, count: int, generator: np.random.Generator) -> FloatArray:
    """Random lengths, whole numbers >= 1, shape (count,).

    A length known by mean and coefficient of variation is uniform where that is possible (cv <= 1 / sqrt(3)), and
    gamma-distributed otherwise.
    """
    if isinstance(length, DiscreteLength):
        weights = np.asarray(length.weights, dtype=float)
        drawn = generator.choice(np.asarray(length.values, dtype=float), size=count, p=weights / weights.sum())
    elif isinstance(length, MeanLength) and length.cv > 1.0 / math.sqrt(3.0):
        drawn = generator.gamma(1.0 / length.cv**2, length.mean * length.cv**2, size=count)
    elif isinstance(length, MeanLength):
        half = length.mean * length.cv * math.sqrt(3.0)
        drawn = generator.uniform(length.mean - half, length.mean + half, size=count)
    else:
        drawn = np.full(count, float(length))
    return np.maximum(np.round(drawn), 1.0)


@dataclass(frozen=True)
class Policy:
    """How an engine fills its steps.

    Args:
        budget: most tokens of one lane in one step.
        prefill_first: steps with prompts leave decoding requests out, and come first while prompts wait; otherwise
            prompts share steps with decoding requests.
        request_ms: time of the API server for one request.
        token_us: time of the API server for one prompt token.
        load_ms: time to bring a request's prefix, after the API server and beside all others, before the engine sees
            it.
        delay_ms: time of a request on its way in and of its first token on the way out, whatever the load.
        lag_steps: decode steps that a request is late for the batch: engines prepare a step while another runs, and
            hand tokens on while the next one runs. Steps of the batch that goes on when the request is sent.
        poll_steps: decode steps between two looks for new requests (SGLang's `--scheduler-recv-interval`); after a step
            with prompts, and when idle, the engine looks at once.
        wait_steps: decode steps for which new prompts are held back so that more of them share a step (TensorRT-LLM's
            `batch_wait_timeout_iters`), unless nothing is being decoded or a prompt goes on in the step anyway.
        wait_tokens: tokens of a step with the held prompts that have slots, and all decoding requests, at which they go
            at once (`batch_wait_max_tokens_ratio` x budget).
    """

    budget: int
    prefill_first: bool
    request_ms: float
    token_us: float
    load_ms: float = 0.0
    delay_ms: float = 0.0
    lag_steps: float = 0.0
    poll_steps: int = 1
    wait_steps: int = 0
    wait_tokens: float = 0.0

    def ready_ms(self, input_tokens: float) -> float:
        """Time of one request on the API server."""
        return self.request_ms + 1e-3 * self.token_us * input_tokens


@dataclass(frozen=True, eq=False)
class Run:
    """What the clients saw.

    Args:
        ttft_ms: per request, in the order of first tokens.
        tpot_ms: per request of two tokens or more, in the order of completion.
        output_tokens: of all requests.
        end_ms: when the last answer was complete.
    """

    ttft_ms: FloatArray
    tpot_ms: FloatArray
    output_tokens: float
    end_ms: float

    @property
    def throughput_tok_s(self) -> float:
        """Output tokens per second over the whole run."""
        return 1e3 * self.output_tokens / self.end_ms


def run(times: StepTimes, policy: Policy, slots: int, clients: int, requests: Requests) -> Run:
    """Simulate a closed loop on one replica.

    A waiting prompt goes to the lane with room in the step that has the fewest requests, as soon as there is one.
    Decoding requests bring as many tokens a step as the engine verifies, and an answer ends with the step that yields
    its last token.

    Args:
        times: step times, tabulated for at least `slots` requests and the policy's budget.
        policy: of the engine.
        slots: requests that may be in flight at once on the replica, dealt out evenly to its lanes.
        clients: requests that the clients keep in the system.
        requests: of the run.
    """
    inputs, outputs = requests.input_tokens.tolist(), requests.output_tokens.tolist()
    count, lanes = len(inputs), range(times.lanes)
    per_lane = math.ceil(slots / times.lanes)
    most = policy.budget * times.stages
    ready: deque[tuple[float, int]] = deque()  # (when the engine can see it, request)
    sent_ms = [0.0] * count
    server_free, sent = 0.0, 0

    def send(now: float, late_ms: float) -> None:
        nonlocal server_free, sent
        if sent < count:
            sent_ms[sent] = now
            server_free = max(server_free, now) + policy.ready_ms(inputs[sent])
            ready.append((server_free + policy.load_ms + late_ms, sent))
            sent += 1

    for _ in range(min(clients, count)):
        send(0.0, 0.0)
    now, step, done = 0.0, 0, 0
    visible: deque[int] = deque()
    unseen_steps = policy.poll_steps  # decode steps since the engine last looked
    held_steps = 0
    decoding: list[list[tuple[int, int]]] = [[] for _ in lanes]  # heaps of (last step, request)
    partial: list[tuple[int, int] | None] = [None] * times.lanes  # (request, prompt tokens left)
    first_ms = [0.0] * count
    ttft: list[float] = []
    tpot: list[float] = []
    while done < count:
        loads = [len(lane) for lane in decoding]
        decodes = sum(loads)
        taken = [0] * times.lanes
        begun: list[tuple[int, int]] = []  # (lane, request) whose prompts end with this step
        filled = [loads[lane] + (partial[lane] is not None) for lane in lanes]
        free = slots - sum(filled)
        room = [most - (0 if policy.prefill_first else load * times.queries) for load in loads]
        for lane in lanes:
            if partial[lane] is not None:
                _compute(lane, partial, room, taken, begun)
        if unseen_steps >= policy.poll_steps or not decodes:
            unseen_steps = 0
            while ready and ready[0][0] <= now:
                visible.append(ready.popleft()[1])
        held = False
        while visible and free:
            lane = min(lanes, key=lambda lane: (room[lane] <= 0 or filled[lane] >= per_lane, filled[lane], taken[lane]))
            if room[lane] <= 0 or filled[lane] >= per_lane:
                break
            if decodes and held_steps < policy.wait_steps and not any(taken):
                tokens = decodes * times.queries + sum(inputs[request] for request in islice(visible, free))
                held = tokens < policy.wait_tokens
                if held:
                    break
            request = visible.popleft()
            filled[lane] += 1
            free -= 1
            partial[lane] = (request, int(inputs[request]))
            _compute(lane, partial, room, taken, begun)
        if any(taken):
            now += times.mixed_ms([0] * times.lanes if policy.prefill_first else loads, taken)
            step += 0 if policy.prefill_first else 1
            unseen_steps, held_steps = policy.poll_steps, 0
            for lane, request in begun:
                ttft.append(now - sent_ms[request] + policy.delay_ms)
                first_ms[request] = now
                heapq.heappush(decoding[lane], (step + times.decode_steps(outputs[request]), request))
        elif not decodes:
            now = max(now, ready[0][0])
            continue
        else:
            # Nothing but decoding until an answer ends, or the engine looks and finds a prompt.
            step_ms = times.decode_step_ms(max(loads), decodes)
            steps = min(lane[0][0] for lane in decoding if lane) - step
            if ready:
                look, due = policy.poll_steps - unseen_steps, math.ceil((ready[0][0] - now) / step_ms)
                steps = min(steps, look + policy.poll_steps * max(0, math.ceil((due - look) / policy.poll_steps)))
            if held:
                steps = min(steps, policy.wait_steps - held_steps)
                held_steps += steps
            now, step = now + steps * step_ms, step + steps
            # Looks that found nothing start the count again.
            unseen_steps = (unseen_steps + steps - 1) % policy.poll_steps + 1
        ended = 0
        for lane in lanes:
            while decoding[lane] and decoding[lane][0][0] <= step:
                _, request = heapq.heappop(decoding[lane])
                if outputs[request] > 1:
                    tpot.append((now - first_ms[request]) / (outputs[request] - 1.0))
                ended += 1
        if ended:
            done += ended
            late_ms = 0.0
            if policy.lag_steps and any(decoding):
                late_ms = policy.lag_steps * times.decode_step_ms(max(map(len, decoding)), sum(map(len, decoding)))
            for _ in range(ended):
                send(now, late_ms)
    return Run(np.array(ttft), np.array(tpot), float(requests.output_tokens.sum()), now)


def _compute(
    lane: int,
    partial: list[tuple[int, int] | None],
    room: list[int],
    taken: list[int],
    begun: list[tuple[int, int]],
) -> None:
    """Put as much of a lane's prompt into its step as there is room for."""
    current = partial[lane]
    if current is None or room[lane] <= 0:
        return
    request, left = current
    part = min(left, room[lane])
    room[lane] -= part
    taken[lane] += part
    if part == left:
        begun.append((lane, request))
        partial[lane] = None
    else:
        partial[lane] = (request, left - part)
