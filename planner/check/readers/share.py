"""Reads `instances/*.sh`: the share of one engine instance on one node."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.check.commands import Commands, spoken_words
from planner.check.findings import Findings
from planner.check.instance import Process
from planner.check.place import Fact, Place
from planner.check.script import unknown
from planner.check.shell import Command

DEVICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")
"""Variables that say which GPUs a process sees: NVIDIA, AMD, Huawei."""
STRICT = "set -euo pipefail"
TO_FOLDER = 'cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."'
LOAD_HOSTS = "set -a\nsource ./hosts.env\nset +a"
JOIN = """\
status=0
while ((${#running[@]})); do
  for process in "${!running[@]}"; do
    if kill -0 "$process" 2>/dev/null; then continue; fi
    code=0
    wait "$process" || code=$?
    echo "${running[$process]} ended with status $code" >&2
    unset "running[$process]"
    ((code == 0)) || status=1
  done
  if ((${#running[@]})); then sleep 1; fi
done
exit "$status\""""
STOP = """\
trap 'kill "${!running[@]}" 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM"""

READY = """\
ready() {
  until curl --silent --fail --output /dev/null "$1/health"; do
    echo "waiting for $1" >&2
    sleep 5
  done
}"""

_HOST = re.compile(r"\$\{?(HOST_[A-Z0-9_]+)")


@dataclass(frozen=True)
class Share:
    """What a script does on its node.

    Args:
        gpus: indices of the GPUs that it sees.
        run: the words that it runs, after expansion.
        required: host variables that it asks for.
        hosts: host variables that it uses.
        place: of the command.
    """

    gpus: Fact[tuple[int, ...]] | None
    run: tuple[Fact[str], ...]
    required: Mapping[str, Place]
    hosts: Mapping[str, Place]
    place: Place


def read_share(commands: Sequence[Command], file: str, findings: Findings) -> Share | None:
    """The share of a script; commands that are none of a share are violations."""
    variables: dict[str, str] = {}
    gpus: Fact[tuple[int, ...]] | None = None
    run: tuple[Fact[str], ...] = ()
    place = Place(file)
    required: dict[str, Place] = {}
    hosts: dict[str, Place] = {}
    granted: Fact[str] | None = None
    for command in commands:
        if run:
            unknown(command, findings)  # after `exec` nothing runs
        elif command.name == ":" and len(command.words) == 2 and "?" in command.words[1].raw:
            for name in _HOST.findall(command.words[1].raw):
                required[name] = command.place
        elif command.name == "read" and command.redirects and "granted" in [word.raw for word in command.words]:
            target = command.redirects[0][1]
            value = target.expand({})
            shape = [word.raw for word in command.words] == ["read", "-ra", "granted"]
            separated = [(name, word.raw) for name, word in command.assignments] == [("IFS", ",")]
            if value is None or not shape or not separated or target.parameters - set(DEVICES):
                unknown(command, findings)
                continue
            granted = Fact(value, command.place)
            variables |= {f"granted[{i}]": each for i, each in enumerate(value.split(","))}
            if value != ",".join(str(i) for i in range(len(value.split(",")))):
                findings.wrong("gpus", command.place, f"GPUs are counted from 0 without gaps, got {value}")
        elif command.name == "export" and len(command.words) == 2:
            name, _, _ = command.words[1].raw.partition("=")
            value = command.words[1].spoken(variables).partition("=")[2]
            if name not in DEVICES or gpus is not None:
                unknown(command, findings)
                continue
            gpus = _indices(value, command.place, findings)
            if granted is not None and gpus is not None and not _refers(command.words[1].raw):
                findings.wrong("gpus", command.place, "GPUs must be picked from those that were granted", name)
        elif command.name == "exec" and len(command.words) > 1 and command.end == "\n" and not command.redirects:
            run, place = tuple(spoken_words(command, variables)), command.place
            for word in command.words:
                for name in _HOST.findall(word.raw):
                    hosts.setdefault(name, word.place)
        else:
            unknown(command, findings)
    if len(run) < 2:
        findings.wrong("command", Place(file), "starts nothing: it has no `exec` with an engine's command")
        return None
    return Share(gpus, run, required, hosts, place)


def _refers(raw: str) -> bool:
    return "${granted[" in raw


def _indices(value: str, place: Place, findings: Findings) -> Fact[tuple[int, ...]] | None:
    """GPUs as a list of indices with commas."""
    parts = value.split(",")
    if not all(re.fullmatch(r"\d{1,4}", part) for part in parts):
        findings.wrong("gpus", place, f"must be indices of GPUs with commas between them, got {value[:80]!r}")
        return None
    indices = tuple(int(part) for part in parts)
    if len(set(indices)) < len(indices):
        findings.wrong("gpus", place, f"names a GPU twice: {value}")
    return Fact(indices, place)


def engine_run(
    share: Share, commands: Commands, version: Fact[str] | None, tasks: Fact[int] | None = None
) -> Process | None:
    """The engine process that a share starts."""
    return commands.process(share.run, {}, share.place, version=version, tasks=tasks)
