"""What stands in front of the instances of a deployment: a P/D proxy or a load balancer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.launch.command import Process, Words
from planner.launch.component import DeploymentLaunch
from planner.launch.settings import DISAGGREGATED_MODES
from planner.launch.shell import expand
from specs.engine_table import EngineTable
from specs.plan import Role
from specs.service import Engine

MIXED, PREFILL, DECODE = "mixed", "prefill", "decode"
"""Kinds of backend."""
POLICY = "round_robin"
"""Instances of a pool are alike, and the plan spreads requests evenly."""
START_SECONDS = 3600
"""Time given to an engine to download, load and compile before whoever waits for it gives up."""


def router_process(
    deployment: DeploymentLaunch,
    table: EngineTable,
    backends: Mapping[str, Sequence[str]],
    port: int,
    *,
    bootstrap_ports: Sequence[int] = (),
    config_dir: str = ".",
) -> Process | None:
    """The router's process, or None where clients talk to the only instance, or the engine ships no router.

    Args:
        deployment: behind the router.
        table: flags of the version.
        backends: URLs of the API servers by kind: `prefill` and `decode` (attention instances decode), or `mixed`.
        port: to listen on.
        bootstrap_ports: of the prefill servers, in their order (SGLang).
        config_dir: folder of the router's own file (TensorRT-LLM).
    """
    prefill, decode = list(backends.get(PREFILL, ())), list(backends.get(DECODE, ()))
    if deployment.mode in DISAGGREGATED_MODES:
        if not prefill or not decode:
            return None
        if deployment.service.engine is Engine.TRTLLM:
            return _trtllm(deployment, table, prefill, decode, port, config_dir)
        return _disaggregated(table, prefill, decode, port, bootstrap_ports)
    urls = [*backends.get(MIXED, ()), *prefill, *decode]
    if len(urls) < 2 or deployment.service.engine is Engine.TRTLLM:
        return None
    words = _start(table, port)
    words.add("policy", POLICY)
    words.text(words.program.flag("workers"), *(expand(url) for url in urls))
    return Process(words.words)


def entry_roles(deployment: DeploymentLaunch) -> Mapping[Role, str]:
    """Roles that a router talks to -> the kind of backend they are. FFN instances serve no requests."""
    if deployment.mode in DISAGGREGATED_MODES:
        return {Role.PREFILL: PREFILL, Role.DECODE: DECODE, Role.ATTENTION: DECODE}
    return dict.fromkeys((Role.MIXED, Role.PREFILL, Role.DECODE, Role.ATTENTION), MIXED)


def _start(table: EngineTable, port: int) -> Words:
    words = Words(table.router)
    words.add("host", "0.0.0.0")
    words.add("port", port)
    words.add("startup_timeout", START_SECONDS)
    return words


def _disaggregated(
    table: EngineTable, prefill: Sequence[str], decode: Sequence[str], port: int, bootstrap_ports: Sequence[int]
) -> Process:
    words = _start(table, port)
    words.add("disaggregation")
    words.add("policy", POLICY)
    for index, url in enumerate(prefill):
        extra = (str(bootstrap_ports[index]),) if index < len(bootstrap_ports) else ()
        words.text(words.program.flag("prefill"), expand(url), *extra)
    for url in decode:
        words.text(words.program.flag("decode"), expand(url))
    return Process(words.words)


def _trtllm(
    deployment: DeploymentLaunch,
    table: EngineTable,
    prefill: Sequence[str],
    decode: Sequence[str],
    port: int,
    config_dir: str,
) -> Process:
    import yaml

    def servers(urls: Sequence[str]) -> dict[str, object]:
        hosts = [url.removeprefix("http://").rstrip("/") for url in urls]
        return {"num_instances": len(hosts), "urls": hosts}

    file = f"{deployment.name}-router.yaml"
    document = {
        "hostname": "0.0.0.0",
        "port": port,
        "backend": "pytorch",
        "context_servers": servers(prefill),
        "generation_servers": servers(decode),
    }
    words = Words(table.router)
    words.add("config", file if config_dir == "." else f"{config_dir}/{file}")
    words.add("startup_timeout", START_SECONDS)
    return Process(words.words, files={file: yaml.safe_dump(document, sort_keys=False)})
