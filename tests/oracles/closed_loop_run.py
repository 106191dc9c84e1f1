"""Closed-loop runs simulated step by step and token by token, after what engines do. Slow and plain.

Rules of one replica: the API server takes requests in order, one at a time. Before each step the engine looks for what
has come, on every `poll`-th decode step, after every step with prompts, and whenever it decodes nothing. vLLM and
TensorRT-LLM decode first and fill what is left of each lane's token budget with prompts in order of arrival, in chunks;
SGLang computes prompts alone as long as it can. A step lasts as long as `step_ms(decoding, prompt tokens)` says.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

StepMs = Callable[[list[int], list[int]], float]


@dataclass
class Seen:
    """Per request, in the order in which they were sent: TTFT, TPOT (None for one token), when it was complete."""

    ttft_ms: list[float]
    tpot_ms: list[float | None]
    done_ms: list[float]
    most_in_flight: int = 0
    most_on_lane: int = 0
    busy_ms: float = 0.0
    steps: list[float] = field(default_factory=list)

    @property
    def end_ms(self) -> float:
        return max(self.done_ms)


@dataclass
class _Request:
    number: int
    prompt: int
    answer: int
    sent: float
    ready: float
    left: int = 0
    got: float = 0.0
    lane: int = -1
    first: float = -1.0
    done: float = -1.0


class _Clients:
    """Send requests, the next one when an answer is complete, through one API server."""

    def __init__(
        self, inputs: list[int], outputs: list[int], serve: Callable[[int], float], load_ms: float = 0.0
    ) -> None:
        self.inputs, self.outputs, self.serve, self.load_ms = inputs, outputs, serve, load_ms
        self.requests: list[_Request] = []
        self.free = 0.0

    def send(self, now: float, late: float = 0.0) -> _Request | None:
        number = len(self.requests)
        if number == len(self.inputs):
            return None
        start = max(now, self.free)
        self.free = start + self.serve(self.inputs[number])
        request = _Request(number, self.inputs[number], self.outputs[number], now, self.free + self.load_ms + late)
        request.left = request.prompt
        self.requests.append(request)
        return request

    def seen(self) -> Seen:
        assert len(self.requests) == len(self.inputs)
        return Seen(
            [request.first - request.sent for request in self.requests],
            [(r.done - r.first) / (r.answer - 1) if r.answer > 1 else None for r in self.requests],
            [request.done for request in self.requests],
        )


def aggregated(
    step_ms: StepMs,
    *,
    lanes: int,
    slots: int,
    budget: int,
    prompts_alone: bool,
    serve: Callable[[int], float],
    clients: int,
    inputs: list[int],
    outputs: list[int],
    poll: int = 1,
    wait_steps: int = 0,
    wait_tokens: float = 0.0,
    late_steps: float = 0.0,
    load_ms: float = 0.0,
    queries: int = 1,
    accepted: float = 1.0,
) -> Seen:
    """One replica of `lanes` lanes in lockstep; a request's prefix arrives `load_ms` after the API server is done."""
    world = _Clients(inputs, outputs, serve, load_ms)
    coming: list[_Request] = [request for _ in range(clients) if (request := world.send(0.0))]
    queue: list[_Request] = []  # seen by the engine, not begun
    running: list[_Request] = []  # hold a slot, in the order in which they began
    now, since_look, had_prompts, waited = 0.0, 0, True, 0
    most_in_flight = most_on_lane = 0
    steps: list[float] = []
    lane_slots = -(-slots // lanes)
    while any(request.done < 0 for request in world.requests):
        decoding = [request for request in running if not request.left]
        if had_prompts or not decoding or since_look >= poll:
            since_look = 0
            while coming and coming[0].ready <= now:
                queue.append(coming.pop(0))
        decodes = [sum(request.lane == lane for request in decoding) for lane in range(lanes)]
        room = [budget if prompts_alone else budget - queries * decodes[lane] for lane in range(lanes)]
        chunk = [0] * lanes
        computed: dict[int, int] = {}

        for request in running:
            if request.left:
                _put(request, room, chunk, computed)
        holding = False
        while queue and len(running) < slots:
            on_lane = [sum(request.lane == lane for request in running) for lane in range(lanes)]
            open_lanes = [lane for lane in range(lanes) if room[lane] > 0 and on_lane[lane] < lane_slots]
            if not open_lanes:
                break
            if wait_steps and decoding and sum(chunk) == 0 and waited < wait_steps:
                together = sum(request.prompt for request in queue[: slots - len(running)]) + queries * len(decoding)
                if together < wait_tokens:
                    holding = True
                    break
            request = queue.pop(0)
            fewest = min(on_lane[lane] for lane in open_lanes)
            request.lane = min((lane for lane in open_lanes if on_lane[lane] == fewest), key=lambda lane: chunk[lane])
            running.append(request)
            _put(request, room, chunk, computed)
        most_in_flight = max(most_in_flight, len(running))
        most_on_lane = max([most_on_lane] + [sum(r.lane == lane for r in running) for lane in range(lanes)])
        had_prompts = sum(chunk) > 0
        if not had_prompts and not decoding:
            now = max(now, coming[0].ready)
            continue
        sits_out = had_prompts and prompts_alone
        length = step_ms([0] * lanes if sits_out else decodes, chunk)
        now += length
        steps.append(length)
        if had_prompts:
            waited = 0
        else:
            since_look += 1
            waited += holding
        if not sits_out:
            for request in decoding:
                request.got += accepted
        for request in running:
            request.left -= computed.get(request.number, 0)
            if not request.left and request.first < 0:
                request.first, request.got = now, 1.0
        # Lanes one after the other; who began to decode first comes first.
        over = [request for request in running if not request.left and request.got >= request.answer - 1e-6]
        running = [request for request in running if request not in over]
        still = [sum(r.lane == lane and not r.left for r in running) for lane in range(lanes)]
        late = late_steps * step_ms(still, [0] * lanes) if late_steps and any(still) else 0.0
        for request in over:
            request.done = now
            if (another := world.send(now, late)) is not None:
                coming.append(another)
    seen = world.seen()
    seen.most_in_flight, seen.most_on_lane, seen.steps, seen.busy_ms = most_in_flight, most_on_lane, steps, sum(steps)
    return seen


def _put(request: _Request, room: list[int], chunk: list[int], computed: dict[int, int]) -> None:
    """Put what fits of a prompt into its lane's part of the step."""
    part = max(0, min(request.left, room[request.lane]))
    room[request.lane] -= part
    chunk[request.lane] += part
    computed[request.number] = part


@dataclass
class _Station:
    """A worker with its queue, what its running step does, and when that ends."""

    queue: list[_Request] = field(default_factory=list)
    batch: list[_Request] = field(default_factory=list)
    computing: dict[int, int] = field(default_factory=dict)
    ends: float | None = None


def handed_over(
    prefill_ms: Callable[[list[int]], float],
    decode_ms: Callable[[int], float],
    *,
    prefill_workers: int,
    decode_workers: int,
    lanes: int,
    slots: int,
    budget: int,
    transfer_ms: float,
    first_from_decode: bool,
    serve: Callable[[int], float],
    clients: int,
    inputs: list[int],
    outputs: list[int],
    accepted: float = 1.0,
    recomputes: bool = False,
) -> Seen:
    """Prefill workers hand prompts over to decode workers.

    A prompt goes to the prefill worker with the fewest tokens not yet computed; its cache to the decode worker with the
    fewest requests. With the cache comes the first token, unless the decode worker `recomputes` it from the last prompt
    token in a step that yields no other.
    """
    world = _Clients(inputs, outputs, serve)
    coming = [request for _ in range(clients) if (request := world.send(0.0))]
    travelling: list[tuple[float, _Request]] = []
    prefill = [_Station() for _ in range(prefill_workers)]
    decode = [_Station() for _ in range(decode_workers)]
    most = 0
    while any(request.done < 0 for request in world.requests):
        ends = [station.ends for station in prefill + decode if station.ends is not None]
        now = min(ends + [request.ready for request in coming] + [when for when, _ in travelling])
        for station in prefill:
            if station.ends == now:
                station.ends = None
                for request in station.queue:
                    request.left -= station.computing.get(request.number, 0)
                    if request.left:
                        continue
                    if not first_from_decode:
                        request.first = now
                    if first_from_decode or request.answer > 1:
                        travelling.append((now + transfer_ms, request))
                    else:
                        request.done = now
                        if (another := world.send(now)) is not None:
                            coming.append(another)
                station.queue = [request for request in station.queue if request.left]
        for station in decode:
            if station.ends == now:
                station.ends = None
                for request in station.batch:
                    request.got += accepted if request.got else 1.0
                    if request.first < 0:
                        request.first = now
                over = [request for request in station.batch if request.got >= request.answer - 1e-6]
                station.batch = [request for request in station.batch if request not in over]
                for request in over:
                    request.done = now
                    if (another := world.send(now)) is not None:
                        coming.append(another)
        while coming and coming[0].ready <= now:
            request = coming.pop(0)
            min(prefill, key=lambda station: sum(waiting.left for waiting in station.queue)).queue.append(request)
        for when, request in travelling:
            if when <= now:
                request.got = 0.0 if recomputes else 1.0
                min(decode, key=lambda station: len(station.queue) + len(station.batch)).queue.append(request)
        travelling = [(when, request) for when, request in travelling if when > now]
        for station in prefill:
            if station.ends is None and station.queue:
                room, station.computing = [budget] * lanes, {}
                for request in station.queue:
                    lane = room.index(max(room))
                    station.computing[request.number] = min(room[lane], request.left)
                    room[lane] -= station.computing[request.number]
                station.ends = now + prefill_ms([budget - left for left in room])
        for station in decode:
            if station.ends is None:
                while station.queue and len(station.batch) < slots:
                    station.batch.append(station.queue.pop(0))
                if station.batch:
                    station.ends = now + decode_ms(len(station.batch))
            most = max(most, len(station.batch))
    seen = world.seen()
    seen.most_in_flight = most
    return seen
