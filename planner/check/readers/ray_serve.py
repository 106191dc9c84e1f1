"""Reads Serve config files of Ray Serve LLM: applications of vLLM engines."""

from __future__ import annotations

import json
from typing import Any

from planner.check.arguments import Spoken, read_arguments
from planner.check.commands import Commands
from planner.check.folder import Folder
from planner.check.instance import Fleet, Instance, Process, Seat
from planner.check.node import Node
from planner.check.place import Fact
from planner.check.structure import problems
from specs.engine_table import EngineTable, Flag, FlagKind
from specs.plan import Role
from specs.service import Engine

RULE = "ray"
ACCELERATORS = {
    "A100": "a100-sxm-80gb",
    "B200": "b200-sxm-180gb",
    "B300": "b300-sxm-288gb",
    "GB200": "gb200-nvl72-186gb",
    "GB300": "gb300-nvl72-288gb",
    "H100": "h100-sxm-80gb",
    "H20": "h20-sxm-96gb",
    "H200": "h200-sxm-141gb",
    "L40S": "l40s-pcie-48gb",
    "AMD-Instinct-MI300X-OAM": "mi300x-oam-192gb",
    "AMD-Instinct-MI355X-OAM": "mi355x-oam-288gb",
    "RTX-PRO-6000": "rtx-pro-6000-96gb",
}
"""GPU of the catalogue by Ray's accelerator type (`ray.util.accelerators` of Ray 2.58)."""
BUILDERS = {
    "ray.serve.llm:build_pd_openai_app": {"prefill_config": Role.PREFILL, "decode_config": Role.DECODE},
    "ray.serve.llm:build_dp_openai_app": {"llm_config": Role.MIXED},
    "ray.serve.llm:build_openai_app": {"llm_configs": Role.MIXED},
}
"""Arguments of the functions that make applications, and the role of the engines behind them."""
MAX_BUNDLES = 1000

_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_CONFIG: dict[str, Any] = {
    "type": "object",
    "required": [
        "model_loading_config",
        "accelerator_type",
        "engine_kwargs",
        "placement_group_config",
        "deployment_config",
    ],
    "properties": {
        "model_loading_config": {
            "type": "object",
            "required": ["model_id", "model_source"],
            "properties": {"model_id": _TEXT, "model_source": _TEXT},
        },
        "accelerator_type": _TEXT,
        "engine_kwargs": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "placement_group_config": {
            "type": "object",
            "required": ["bundles", "strategy"],
            "properties": {
                "bundles": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_BUNDLES,
                    "items": {
                        "type": "object",
                        "required": ["CPU", "GPU"],
                        "properties": {
                            "CPU": {"type": "integer", "enum": [1]},
                            "GPU": {"type": "integer", "enum": [1]},
                        },
                    },
                },
                "strategy": {"type": "string", "enum": ["STRICT_PACK", "PACK"]},
            },
        },
        "deployment_config": {
            "type": "object",
            "required": ["num_replicas"],
            "properties": {"num_replicas": {"type": "integer", "minimum": 0, "maximum": 1_000_000}},
        },
    },
}
_APPLICATION: dict[str, Any] = {
    "type": "object",
    "required": ["name", "route_prefix", "import_path", "args"],
    "properties": {
        "name": _TEXT,
        "route_prefix": {"type": "string", "pattern": "^/"},
        "import_path": {"type": "string", "enum": list(BUILDERS)},
        "args": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
}
_FILE: dict[str, Any] = {
    "type": "object",
    "required": ["applications"],
    "properties": {"applications": {"type": "array", "minItems": 1, "items": _APPLICATION}},
}


def recognises(folder: Folder) -> bool:
    """Whether the folder holds a Serve config."""
    return bool(_files(folder))


def _files(folder: Folder) -> list[str]:
    names = [name for name in folder.names() if name.endswith((".yaml", ".yml"))]
    return [name for name in names if any("applications" in document.fields for document in folder.peek(name))]


def read(folder: Folder) -> Fleet:
    """The instances of all applications."""
    fleet = Fleet(formats={"ray"})
    names: set[str] = set()
    routes: set[str] = set()
    for file in _files(folder):
        for document in folder.documents(file):
            wrong = list(problems(document, _FILE))
            for node, message in wrong:
                folder.findings.wrong("schema", node.place, message, node.path or None)
            for application in document.fields["applications"].items if not wrong else ():
                for key, seen in (("name", names), ("route_prefix", routes)):
                    value = str(application.fields[key].value)
                    if value in seen:
                        folder.findings.wrong("name", application.fields[key].place, f"{value} is there twice", key)
                    seen.add(value)
                fleet.instances += _Application(application, folder).instances()
            count = len(document.get("applications").items) if document.get("applications") is not None else 0  # type: ignore[union-attr]
            for application in document.fields["applications"].items if not wrong else ():
                _check_route(application, count, folder)
    return fleet


def _check_route(application: Node, count: int, folder: Folder) -> None:
    wanted = "/" if count == 1 else f"/{application.text('name')}"
    node = application.fields["route_prefix"]
    if node.value != wanted:
        message = f"must be {wanted}: the root where there is one application, else its name"
        folder.findings.wrong(RULE, node.place, message, "route_prefix")


class _Application:
    def __init__(self, application: Node, folder: Folder) -> None:
        self.application = application
        self.folder = folder
        self.findings = folder.findings
        self.name = application.text("name") or ""

    def instances(self) -> list[Instance]:
        builder = BUILDERS[str(self.application.fields["import_path"].value)]
        args = self.application.fields["args"]
        for key in args.fields.keys() - builder.keys():
            self.findings.wrong(
                RULE, args.fields[key].place, f"is no argument of {self.application.text('import_path')}", key
            )
        found: list[Instance] = []
        for key, role in builder.items():
            node = args.fields.get(key)
            if node is None:
                self.findings.wrong(RULE, args.place, f"lacks {key}", key)
                continue
            configs = node.items if key == "llm_configs" else [node]
            if len(configs) != 1:
                self.findings.wrong(RULE, node.place, f"must hold one configuration, got {len(configs)}", key)
            found += [instance for config in configs if (instance := self._instance(config, role)) is not None]
        self._check_builder(found)
        return found

    def _check_builder(self, found: list[Instance]) -> None:
        """Data-parallel engines need the builder that groups their ranks."""
        path = self.application.fields["import_path"]
        for instance in found:
            leader = instance.leader
            if leader is None or instance.role is None or instance.role.value is not Role.MIXED:
                continue
            grouped = leader.arguments.whole("data_parallel") is not None
            if grouped != (path.value == "ray.serve.llm:build_dp_openai_app"):
                message = "build_dp_openai_app goes with data_parallel_size, and only with it"
                self.findings.wrong(RULE, path.place, message, "import_path")

    def _instance(self, config: Node, role: Role) -> Instance | None:
        wrong = list(problems(config, _CONFIG))
        for node, message in wrong:
            self.findings.wrong("schema", node.place, message, node.path or None)
        if wrong:
            return None
        accelerator = config.fields["accelerator_type"]
        gpu = ACCELERATORS.get(str(accelerator.value))
        if gpu is None:
            known = ", ".join(ACCELERATORS)
            self.findings.wrong(
                RULE, accelerator.place, f"is no accelerator type that is known: {known}", "accelerator_type"
            )
        commands = Commands(self.findings)
        table = commands.table(Engine.VLLM, None, afd=False, place=config.place)
        assert table is not None
        process = self._process(config, table)
        bundles = config.get("placement_group_config", "bundles")
        assert bundles is not None
        rank_gpus = len(bundles.items)
        dp = process.arguments.whole("data_parallel") or 1
        tp, pp = process.arguments.whole("tensor_parallel") or 1, process.arguments.whole("pipeline_parallel") or 1
        if rank_gpus != tp * pp:
            message = f"must have one GPU for each of tp x pp = {tp} x {pp} ranks, got {rank_gpus}"
            self.findings.wrong("gpus", bundles.place, message, "bundles")
        strategy = config.get("placement_group_config", "strategy")
        assert strategy is not None
        copies = config.fields["deployment_config"].fields["num_replicas"]
        kind = (
            "mixed" if role is Role.MIXED and process.arguments.argument("kv_transfer_config") is None else role.value
        )
        component = f"{self.name}-{kind}"
        seats = tuple(Seat(Fact(rank_gpus, strategy.place), process) for _ in range(min(dp, MAX_BUNDLES)))
        return Instance(
            name=component,
            component=component,
            seats=seats,
            copies=Fact(int(str(copies.value)), copies.place),
            place=config.place,
            service=Fact(self.name, config.place),
            role=Fact(role, config.place),
            gpu=Fact(gpu, accelerator.place) if gpu is not None else None,
            managed=True,
            scattered=Fact(str(strategy.value), strategy.place),
        )

    def _process(self, config: Node, table: EngineTable) -> Process:
        """The engine's arguments as the flags that vLLM makes of them."""
        model = config.fields["model_loading_config"].fields["model_source"]
        if config.text("model_loading_config", "model_id") != model.value:
            place = config.fields["model_loading_config"].fields["model_id"].place
            self.findings.wrong(RULE, place, "must be the model's source: clients ask for it by this name", "model_id")
        words: list[Spoken] = [Fact(str(model.value), model.place)]
        for name, node in config.fields["engine_kwargs"].fields.items():
            words += self._words(name, node, table)
        arguments = read_arguments(words, table.server, config.place, self.findings)
        return Process(table, arguments, {}, config.fields["engine_kwargs"].place)

    def _words(self, name: str, node: Node, table: EngineTable) -> list[Spoken]:
        flag = f"--{name.replace('_', '-')}"
        known: Flag | None = table.server.flags.get(table.server.spellings.get(flag, ""))
        value = node.plain
        if known is None:
            return [Fact(flag, node.place)]
        wanted: dict[FlagKind, tuple[type, ...]] = {
            FlagKind.SWITCH: (bool,),
            FlagKind.INT: (int,),
            FlagKind.FLOAT: (int, float),
            FlagKind.JSON: (dict,),
            FlagKind.STR: (str,),
            FlagKind.CHOICE: (str,),
        }
        kinds = wanted.get(known.kind, (object,))
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.findings.wrong("flags", node.place, f"takes a {known.kind.value}, got {value!r:.60}", name)
            return []
        if known.kind is FlagKind.SWITCH:
            return [Fact(flag, node.place)] if value else []
        text = json.dumps(value, separators=(",", ":")) if isinstance(value, dict) else str(value)
        return [Fact(flag, node.place), Fact(text, node.place)]
