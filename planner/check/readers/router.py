"""Reads the script of a router."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from planner.check.arguments import Arguments, read_document
from planner.check.commands import Commands, Text
from planner.check.instance import Backend, Router
from planner.check.place import Fact, Place
from planner.check.readers.share import READY, Share, read_share
from planner.check.script import without_blocks
from planner.check.shell import Command
from specs.engine_table import EngineTable
from specs.service import Engine

RULE = "router"
ANY_HOST = "0.0.0.0"
POLICY = "round_robin"
LEAST_START_SECONDS = 600
"""Time to load a model before a router gives its server up."""


def read_router(
    commands: Sequence[Command], file: str, deployment: str, programs: Commands, version: Fact[str] | None = None
) -> tuple[Router | None, Share | None]:
    """The router of a script, and the script's share; a file that the script writes is read as the router's own."""
    rest: list[Command] = []
    waited: list[Fact[str]] = []
    if any(command.name == "ready" and len(command.words) == 2 for command in commands):
        commands = without_blocks(commands, (READY,), file, programs.findings)
    written: dict[str, Text] = {}
    made: set[str] = set()
    for command in commands:
        if command.name == "mkdir" and [word.raw for word in command.words[:2]] == ["mkdir", "-p"]:
            made |= {word.raw for word in command.words[2:]}
        elif command.name == "cat" and len(command.words) == 1 and len(command.here) == 1:
            target = command.redirects[0][1] if command.redirects and command.redirects[0][0] == ">" else None
            if target is None or target.literal is None or target.literal.rpartition("/")[0] not in {*made, ""}:
                programs.findings.wrong(RULE, command.place, "writes a file to a folder that it does not make first")
                continue
            here = command.here[0]
            text = re.sub(r"\$\{(\w+)\}", r"$\1", here.text) if here.expanded else here.text
            written[target.literal] = Text(text, file, here.first_line)
        elif command.name == "ready" and len(command.words) == 2 and command.end == "\n" and not command.redirects:
            waited.append(Fact(command.words[1].spoken({}), command.place))
        else:
            rest.append(command)
    for folder in made:
        if not any(name.startswith(f"{folder}/") for name in written):
            programs.findings.wrong(RULE, Place(file), f"makes the folder {folder!r} for nothing")
    programs.files.update(written)
    share = read_share(rest, file, programs.findings)
    if share is None:
        return None, None
    inside = re.findall(r"\$(HOST_[A-Z0-9_]+)", "".join(text.text for text in written.values()))
    share = replace(share, hosts={**dict.fromkeys(inside, share.place), **share.hosts})
    found = programs.router(share.run, share.place, version)
    if found is None:
        programs.findings.wrong(RULE, share.place, "starts no router that is known")
        return None, share
    table, arguments = found
    router = router_of(table, arguments, deployment, programs)
    _check_waits(router, waited, programs)
    return router, share


def _check_waits(router: Router, waited: Sequence[Fact[str]], programs: Commands) -> None:
    """A router that waits for servers waits for each of its own once."""
    if not waited:
        return
    servers = [backend.url.value.removeprefix("http://") for backend in router.backends]
    seen: set[str] = set()
    for url in waited:
        server = url.value.removeprefix("http://")
        if server not in servers or server in seen or not url.value.startswith("http://"):
            message = f"waits for {url.value[:80]}, which is none of its servers, or is there twice"
            programs.findings.wrong(RULE, url.place, message, "ready")
        seen.add(server)
    for server in servers:
        if server not in seen:
            programs.findings.wrong(RULE, waited[0].place, f"does not wait for {server}", "ready")


def router_of(table: EngineTable, arguments: Arguments, deployment: str, programs: Commands) -> Router:
    """The router of a command."""
    patience = arguments.whole("startup_timeout")
    if patience is None or patience < LEAST_START_SECONDS:
        message = f"must be {LEAST_START_SECONDS} s or more, which models take to load, got {patience}"
        programs.findings.wrong(RULE, arguments.place_of("startup_timeout"), message, "startup_timeout")
    if table.engine is Engine.TRTLLM:
        return _configured(table, arguments, deployment, programs)
    findings = programs.findings
    backends: list[Backend] = []
    for kind in ("prefill", "decode"):
        argument = arguments.argument(kind)
        for group in argument.groups if argument is not None else ():
            if not group:
                continue
            if len(group) > (2 if kind == "prefill" else 1):
                findings.wrong(RULE, group[-1].place, "is a word too many after a server's URL", kind)
            backends.append(Backend(kind, group[0], group[1] if len(group) > 1 else None))
    workers = arguments.argument("workers")
    backends += [Backend("mixed", url) for url in (workers.values if workers is not None else ())]
    split = arguments.has("disaggregation")
    if split != any(backend.kind != "mixed" for backend in backends):
        place = arguments.place_of("disaggregation")
        findings.wrong(RULE, place, "prefill and decode servers go with the switch for disaggregation, and only they")
    if arguments.text("policy") != POLICY:
        message = f"must be {POLICY}: a plan spreads requests evenly over instances that are alike"
        findings.wrong(RULE, arguments.place_of("policy"), message, "policy")
    _check_host(arguments.text("host"), arguments.place_of("host"), programs)
    port = arguments.whole("port")
    if port is None:
        findings.wrong(RULE, arguments.place, "does not say its port", "port")
    listens = Fact(port, arguments.place_of("port")) if port is not None else None
    return Router(deployment, table.engine, tuple(backends), listens, arguments.place)


def _check_host(host: str | None, place: Place, programs: Commands) -> None:
    if host != ANY_HOST:
        programs.findings.wrong(RULE, place, f"must listen on {ANY_HOST} to be reached, got {host}", "host")


def _configured(table: EngineTable, arguments: Arguments, deployment: str, programs: Commands) -> Router:
    """TensorRT-LLM's router, whose servers stand in a YAML file."""
    path = arguments.text("config")
    document = None
    if path is None:
        programs.findings.wrong(RULE, arguments.place, "names no file with its servers", "config")
    else:
        document = programs.document(path, arguments.place_of("config"))
    if document is None:
        return Router(deployment, table.engine, (), None, arguments.place)
    values: Mapping[str, Fact[Any]] = read_document(document, table.documents.get("router", {}), programs.findings)
    backends: list[Backend] = []
    for key, kind in (("context_servers", "prefill"), ("generation_servers", "decode")):
        node = document.get(key, "urls")
        urls = node.items if node is not None else []
        count = document.whole(key, "num_instances")
        if count != len(urls):
            place = document.fields[key].place if key in document.fields else document.place
            programs.findings.wrong(RULE, place, f"says {count} servers and names {len(urls)}", f"{key}.num_instances")
        backends += [Backend(kind, Fact(str(url.value), url.place)) for url in urls]
    host = values.get("hostname")
    _check_host(str(host.value) if host else None, host.place if host else document.place, programs)
    backend = values.get("backend")
    if backend is None or backend.value != "pytorch":
        place = backend.place if backend else document.place
        programs.findings.wrong(RULE, place, "must be pytorch, as the servers' is", "backend")
    port = values.get("port")
    listens = Fact(int(port.value), port.place) if port is not None and type(port.value) is int else None
    if listens is None:
        programs.findings.wrong(RULE, document.place, "does not say its port", "port")
    return Router(deployment, table.engine, tuple(backends), listens, arguments.place)
