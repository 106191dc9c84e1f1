"""How the nodes of an instance find one another, and the two sides of an AFD unit."""

from __future__ import annotations

from collections.abc import Iterable

from planner.check.findings import Findings
from planner.check.instance import Instance, Process, Seat
from planner.check.layout import Layout
from planner.check.place import Place
from specs.plan import Role
from specs.service import Engine

RULE = "address"

ADDRESSES = frozenset(
    {
        "host",
        "port",
        "headless",
        "nodes",
        "node_rank",
        "master_host",
        "master_port",
        "rendezvous",
        "data_parallel_local",
        "data_parallel_address",
        "data_parallel_port",
        "data_parallel_start",
        "bootstrap_port",
    }
)
"""Concepts that say where a process is; all others are the same on every node and in every instance of a component."""
ANY_HOST = "0.0.0.0"
HYBRID = "--data-parallel-hybrid-lb"
"""vLLM's flag that makes every node of an instance serve its own ranks."""


def check_addresses(instance: Instance, layouts: list[Layout], findings: Findings) -> None:
    """Every node names the first node and its own rank, and all of them the same ports."""
    if instance.managed:
        _check_managed(instance, findings)
        return
    for rank, (seat, layout) in enumerate(zip(instance.seats, layouts, strict=True)):
        process = seat.process
        if process is None:
            continue
        _check_server(process, findings)
        if process.engine is Engine.VLLM:
            _vllm(instance, seat, rank, layout, findings)
        elif process.engine is Engine.SGLANG:
            _sglang(instance, seat, rank, findings)
    for concept in ("port", "data_parallel_port", "master_port", "rendezvous", "bootstrap_port"):
        _same(instance, concept, findings)
    told = {
        (seat.process.arguments.text("additional_config") or "").replace(str(seat.leader), "LEADER"): seat.process
        for seat in instance.seats
        if seat.process is not None
    }
    if len(told) > 1:
        place = list(told.values())[-1].arguments.place_of("additional_config")
        findings.wrong(RULE, place, f"the nodes of {instance.name} are told different things", "additional_config")


def _check_managed(instance: Instance, findings: Findings) -> None:
    """An operator sets addresses: a flag that does so as well contradicts it."""
    for process in instance.processes:
        for concept in sorted(ADDRESSES):
            argument = process.arguments.argument(concept)
            # SGLang's host is also where decode finds prefill; the reader of its format checks it.
            kept = ("bootstrap_port", "host") if process.engine is Engine.SGLANG else ("bootstrap_port",)
            if argument is not None and concept not in kept:
                findings.wrong(RULE, argument.place, "is set by the operator, and must be left out", argument.flag)
        name = process.table.environment.get("kv_transfer_host", "")
        host = process.env.get(name)
        if host is not None and host.value != "$POD_IP":
            findings.wrong(RULE, host.place, f"must be the pod's own address, got {host.value}", name)


def _check_server(process: Process, findings: Findings) -> None:
    arguments = process.arguments
    host = arguments.text("host")
    if host != ANY_HOST:
        findings.wrong(RULE, arguments.place_of("host"), f"must be {ANY_HOST} to be reached, got {host}", "host")
    if arguments.whole("port") is None:
        findings.wrong(RULE, arguments.place, "does not say its port", "port")


def _same(instance: Instance, concept: str, findings: Findings) -> None:
    """All nodes agree on a value."""
    # Where nodes meet is a host and a port, and each node may write the host in its own way.
    values = {(process.arguments.text(concept) or "").rpartition(":")[2]: process for process in instance.processes}
    if len(values) > 1:
        last = list(values.values())[-1]
        shown = ", ".join(str(value) for value in values)
        place = last.arguments.place_of(concept)
        findings.wrong(RULE, place, f"the nodes of {instance.name} disagree: {shown}", concept.replace("_", " "))


def _expect(process: Process, concept: str, wanted: str | None, why: str, findings: Findings) -> None:
    got = process.arguments.text(concept)
    if got != wanted:
        shown = "be left out" if wanted is None else f"be {wanted}"
        message = f"must {shown}, {why}; got {got}"
        findings.wrong(RULE, process.arguments.place_of(concept), message, concept.replace("_", " "))


def _vllm(instance: Instance, seat: Seat, rank: int, layout: Layout, findings: Findings) -> None:
    process = seat.process
    assert process is not None
    shards, arguments = layout.shards, process.arguments
    # With a load balancer on each node, every node serves its own ranks.
    each = instance.nodes > 1 and HYBRID in arguments.given
    follows = rank > 0 or each
    local = arguments.whole("data_parallel_local")
    if arguments.has("headless") != (rank > 0 and not each):
        message = "all nodes but the first are headless, and the first is not"
        findings.wrong(RULE, arguments.place_of("headless"), message, "headless")
    if HYBRID in arguments.given and not each:
        findings.wrong(RULE, arguments.given[HYBRID].place, "goes with several nodes", HYBRID)
    if instance.nodes == 1:
        for concept in ("data_parallel_local", "data_parallel_address", "nodes", "node_rank", "master_host",
                        "master_port", "data_parallel_start"):  # fmt: skip
            _expect(process, concept, None, "with one node", findings)
        if (shards.dp > 1) != (arguments.whole("data_parallel_port") is not None):
            place = arguments.place_of("data_parallel_port")
            findings.wrong(RULE, place, "goes with several data-parallel ranks", "data parallel port")
    elif local is not None:
        if local * shards.tp * shards.pp != seat.gpus.value:
            findings.wrong(
                "gpus",
                arguments.place_of("data_parallel_local"),
                f"{local} ranks of {shards.tp * shards.pp} GPUs on a node with {seat.gpus.value} GPUs",
            )
        _expect(process, "data_parallel_address", seat.leader, "the first node", findings)
        start = str(rank * local) if follows else None
        _expect(process, "data_parallel_start", start, f"the first rank of node {rank}", findings)
        if arguments.whole("data_parallel_port") is None:
            findings.wrong(RULE, arguments.place, "does not say the port of its ranks", "data parallel port")
        for concept in ("nodes", "node_rank", "master_host", "master_port"):
            _expect(process, concept, None, "with ranks dealt out over nodes", findings)
    else:
        _expect(process, "node_rank", str(rank), "its place in the instance", findings)
        _expect(process, "master_host", seat.leader, "the first node", findings)
        if arguments.whole("master_port") is None:
            findings.wrong(RULE, arguments.place, "does not say where its nodes meet", "master port")
        if shards.dp > 1:
            _expect(process, "data_parallel_address", seat.leader, "the first node", findings)
    _kv_host(process, seat, layout, findings)


def _kv_host(process: Process, seat: Seat, layout: Layout, findings: Findings) -> None:
    """KV caches are fetched from the node that holds them."""
    hands_over = layout.values.get("transfer") is not None
    for concept in ("kv_transfer_host", "kv_transfer_port"):
        name = process.table.environment.get(concept, "")
        given = process.env.get(name)
        if (given is not None) != hands_over:
            place = given.place if given is not None else process.place
            findings.wrong(RULE, place, "goes with a KV transfer, and only with one", name)
        elif given is not None and concept == "kv_transfer_host" and given.value != seat.host:
            findings.wrong(RULE, given.place, f"must be this node, {seat.host}, got {given.value}", name)
        elif given is not None and concept == "kv_transfer_port" and not given.value.isdecimal():
            findings.wrong(RULE, given.place, f"must be a port, got {given.value!r}", name)


def _sglang(instance: Instance, seat: Seat, rank: int, findings: Findings) -> None:
    process = seat.process
    assert process is not None
    meeting = process.arguments.text("rendezvous")
    if instance.nodes == 1:
        for concept in ("nodes", "node_rank"):
            _expect(process, concept, None, "with one node", findings)
        if meeting is None:
            return
    else:
        _expect(process, "node_rank", str(rank), "its place in the instance", findings)
    host, _, port = (meeting or "").rpartition(":")
    if host != seat.leader or not port.isdecimal():
        place = process.arguments.place_of("rendezvous")
        findings.wrong(RULE, place, f"must be the first node, {seat.leader}, and a port; got {meeting}", "rendezvous")


def check_alike(instances: list[Instance], findings: Findings) -> None:
    """All processes of a component have the same settings, addresses aside."""
    processes = [process for instance in instances for process in instance.processes]
    if not processes:
        return
    counts: dict[tuple[tuple[str, str], ...], list[Process]] = {}
    for process in processes:
        settings = _settings(process)
        counts.setdefault(tuple(sorted(settings.items())), []).append(process)
    if len(counts) <= 1:
        return
    # What most of them say stands; the others are named.
    usual = dict(max(counts.items(), key=lambda item: len(item[1]))[0])
    for different, odd in counts.items():
        said = dict(different)
        for name in sorted(usual.keys() | said.keys()):
            if usual.get(name) != said.get(name):
                process = odd[0]
                argument = process.arguments.given.get(name)
                place = argument.place if argument is not None else process.place
                message = f"differs between processes of {instances[0].component}: {said.get(name)}, elsewhere "
                findings.wrong("alike", place, message + str(usual.get(name)), name)


def _settings(process: Process) -> dict[str, str]:
    """Everything that a process is told, addresses aside."""
    concepts = process.arguments.program.concepts
    skipped = {concepts[concept] for concept in ADDRESSES if concept in concepts}
    # It holds an address; the sides of a unit are compared by themselves.
    skipped |= {concepts.get("additional_config", ""), concepts.get("afd_meeting", "")}
    found = {
        flag: " ".join(value.value for value in argument.values) + (" off" if argument.negated else "")
        for flag, argument in process.arguments.given.items()
        if flag not in skipped
    }
    of_one = ("kv_transfer_host", "kv_transfer_port", "afd_scheduler_port")
    own = {process.table.environment.get(concept) for concept in of_one}
    found |= {f"${name}": value.value for name, value in process.env.items() if name not in own}
    found["model"] = " ".join(word.value for word in process.arguments.positional)
    found |= {f"config {key}": str(fact.value) for key, fact in process.config.items()}
    found["version"] = process.table.title
    return found


def check_units(deployment: Iterable[tuple[Instance, Layout]], findings: Findings) -> None:
    """Each attention instance of a deployment has an FFN instance of its own, and they agree on where they meet."""
    sides: dict[Role, list[tuple[Instance, Layout]]] = {Role.ATTENTION: [], Role.FFN: []}
    for instance, layout in deployment:
        if layout.role in sides:
            sides[layout.role].append((instance, layout))
    met: dict[tuple[object, object], list[Instance]] = {}
    ffn_at: dict[tuple[object, object], tuple[Instance, Layout]] = {}
    for instance, layout in sides[Role.FFN]:
        place = layout.place("afd_host", instance.place)
        host, port = layout.values.get("afd_host"), layout.values.get("afd_port")
        own = instance.seats[0].leader
        if host != own:
            findings.wrong("unit", place, f"must be its own first node, {own}, got {host}", "host")
        _check_ranks(instance, layout, findings)
        where: tuple[object, object] = (instance.address, port)
        if where in ffn_at:
            findings.wrong("unit", place, f"{instance.name} meets where {ffn_at[where][0].name} does", "port")
        ffn_at[where] = (instance, layout)
    for instance, layout in sides[Role.ATTENTION]:
        place = layout.place("afd_host", instance.place)
        _check_ranks(instance, layout, findings)
        where = (layout.values.get("afd_host"), layout.values.get("afd_port"))
        met.setdefault(where, []).append(instance)
        partner = ffn_at.get(where)
        if partner is None:
            message = f"meets at {where[0]}, port {where[1]}, where no FFN instance of its deployment is"
            findings.wrong("unit", place, f"{instance.name} {message}", "host")
            continue
        _check_pair(instance, layout, *partner, findings)
        if len(met[where]) > 1:
            findings.wrong("unit", place, f"{instance.name} meets the FFN instance of {met[where][0].name}", "host")
    for where, (instance, _) in ffn_at.items():
        if where not in met:
            findings.wrong("unit", instance.place, f"{instance.name} is met by no attention instance")


def _check_ranks(instance: Instance, layout: Layout, findings: Findings) -> None:
    """What a side is told of its unit."""
    if instance.leader is not None and instance.leader.engine is Engine.SGLANG:
        _check_sglang_side(instance, layout, findings)
        return
    own = "afd_num_attention_ranks" if layout.role is Role.ATTENTION else "afd_num_ffn_ranks"
    if layout.values.get(own) != instance.gpus:
        place = layout.place(own, instance.place)
        message = f"must be the {instance.gpus} GPUs of {instance.name}, got {layout.values.get(own)}"
        findings.wrong("unit", place, message, own.removeprefix("afd_"))
    wanted = instance.leader.table.afd.get("connector") if instance.leader is not None else None
    if layout.values.get("afd_connector") != wanted:
        place = layout.place("afd_connector", instance.place)
        findings.wrong("unit", place, f"must be {wanted}, got {layout.values.get('afd_connector')}", "connector")
    if layout.values.get("model_runner") != "1":
        place = instance.leader.place if instance.leader is not None else instance.place
        findings.wrong("unit", place, "the AFD plugin needs the second model runner: it must be 1", "model_runner")
    if layout.values.get("graph_mode") != "FULL_DECODE_ONLY":
        place = layout.place("graph_mode", instance.place)
        findings.wrong("unit", place, "the AFD plugin needs cudagraph_mode FULL_DECODE_ONLY", "compilation_config")
    limit, size = layout.values.get("graph_limit"), layout.values.get("graph_size")
    if limit is not None and limit != size:
        place = layout.place("graph_limit", instance.place)
        findings.wrong("unit", place, f"must be the largest of its CUDA graphs, {size}, got {limit}", "graph_limit")


def _check_sglang_side(instance: Instance, layout: Layout, findings: Findings) -> None:
    if layout.values.get("afd_connector") is None:
        place = layout.place("afd_connector", instance.place)
        findings.wrong("unit", place, "does not say how the sides of its unit exchange", "afd_transfer")
    for name in ("no_graphs", "no_overlap"):
        if layout.values.get(name) is not True:
            message = "AFD runs without CUDA graphs and without the overlap scheduler"
            findings.wrong("unit", layout.place(name, instance.place), message, name)
    if type(layout.values.get("afd_scheduler_port")) is not int:
        place = layout.place("afd_scheduler_port", instance.place)
        findings.wrong("unit", place, "does not say the port of its unit's scheduler", "afd_scheduler_port")


def _check_pair(attention: Instance, layout: Layout, ffn: Instance, other: Layout, findings: Findings) -> None:
    """Both sides of a unit are told the same."""
    names = ("afd_num_attention_ranks", "afd_num_ffn_ranks", "sequences", "step_tokens", "max_length", "graph_size",
             "overlap", "overlap_from", "kv_dtype", "quantization", "drafts", "afd_connector",
             "afd_scheduler_port")  # fmt: skip
    for name in names:
        if layout.values.get(name) != other.values.get(name):
            message = f"{ffn.name} is told {other.values.get(name)}, and {attention.name} {layout.values.get(name)}"
            findings.wrong("unit", other.place(name, Place(ffn.place.file, ffn.place.line)), message, name)
