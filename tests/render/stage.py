"""A stage for rendered scripts: programs that only write down how they were called."""

import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAMS = ("vllm", "python3", "trtllm-serve", "trtllm-llmapi-launch", "vllm-router", "sglang-router")

EXAMPLES = (
    "aiconfigurator-deepseek-v3-16xh200",
    "aiconfigurator-deepseek-v3-64xh200-sglang",
    "aiconfigurator-deepseek-v3-64xh200-trtllm",
    "aiconfigurator-deepseek-v3.1-nvfp4-32xb200",
    "aiconfigurator-deepseek-v3.2-32xh200-vllm",
    "aiconfigurator-llama-3.1-70b-8xh100",
    "aiconfigurator-qwen3-32b-8xh200",
    "demand-cost",
    "heterogeneous-pd",
    "p99",
    "two-services",
)
"""Examples that are planned in a few seconds together; several engines, GPU types, services and layouts."""

_RECORD = """#!/bin/bash
file=$(mktemp "$STAGE/calls/XXXXXXXXXX")
printf '%s\\0' "${0##*/}" "$@" >"$file"
printf '%s\\0' "${STAGE_NODE:-}" "${CUDA_VISIBLE_DEVICES:-}" "${OMPI_COMM_WORLD_RANK:-0}" \\
  "${VLLM_NIXL_SIDE_CHANNEL_HOST:-}" >"$file.where"
[[ -z ${STAGE_FAILS:-} || "$*" != *"$STAGE_FAILS"* ]]
"""

_MPIRUN = """#!/bin/bash
# Runs the command as often as asked for on each host.
while [[ $1 == -* ]]; do
  case $1 in
    --host) hosts=$2; shift 2 ;;
    -np | --bind-to) shift 2 ;;
    *) echo "mpirun: $1" >&2; exit 1 ;;
  esac
done
for host in ${hosts//,/ }; do
  for ((task = 0; task < ${host##*:}; task++)); do
    OMPI_COMM_WORLD_RANK=$((rank++)) STAGE_NODE=${host%:*} "$@" || exit 1
  done
done
"""

_SRUN = """#!/bin/bash
# Runs the command as often as asked for on each node, with the GPUs that $STAGE/granted/NODE lists.
for word in "$@"; do
  case $word in
    --nodelist=*) hosts=${word#*=} ;;
    --ntasks-per-node=*) tasks=${word#*=} ;;
    --nodes=*) nodes=${word#*=} ;;
    --het-group=*) group=${word#*=} ;;
    --ntasks=* | --overlap | --cpu-bind=none | --kill-on-bad-exit=1 | --mpi=* | --job-name=* | --output=*) ;;
    --*) echo "srun: $word" >&2; exit 1 ;;
    *) break ;;
  esac
  shift
done
[[ $(tr ',' '\\n' <<<"$hosts" | wc -l) == "$nodes" ]] || exit 1
for host in ${hosts//,/ }; do
  [[ $(<"$STAGE/groups/$host") == "${group:-0}" ]] || exit 1
  for ((task = 0; task < tasks; task++)); do
    CUDA_VISIBLE_DEVICES=$(<"$STAGE/granted/$host") SLURMD_NODENAME=$host STAGE_NODE=$host "$@" || exit 1
  done
done
"""

_SCONTROL = """#!/bin/bash
case $2 in
  hostnames) tr ',' '\\n' <<<"$3" ;;
  node) echo "   NodeAddr=$3 NodeHostName=$3 Version=22.05.8" ;;
esac
"""

_GETENT = """#!/bin/bash
# As on Debian, a name is first the loopback; STAGE_ALONE is a node that has no other.
echo "127.0.1.1       STREAM $2"
[[ $2 == "${STAGE_ALONE:-}" ]] || echo "at-$2       STREAM"
"""

_CURL = """#!/bin/bash
# Every server answers, but none at the first time.
asked="$STAGE/asked/${@: -1}"
[[ -f $asked ]] || { mkdir -p "${asked%/*}"; touch "$asked"; exit 22; }
"""

_SLEEP = """#!/bin/bash
# The pause between two attempts is skipped.
[[ $1 == 5 ]] || exec "$(PATH=/usr/bin:/bin type -P sleep)" "$1"
"""


@dataclass(frozen=True)
class Call:
    """One start of a program.

    Args:
        argv: its words.
        node: that it ran on.
        gpus: that it saw.
        rank: under MPI.
        hands_over_at: host that its KV cache is fetched from (vLLM).
    """

    argv: tuple[str, ...]
    node: str
    gpus: tuple[int, ...]
    rank: int = field(compare=False)
    hands_over_at: str

    @property
    def serves(self) -> bool:
        """Whether it is the one of its instance that takes requests."""
        return self.rank == 0 and self.value("--node-rank") in (None, "0") and "--headless" not in self.argv

    def value(self, flag: str) -> str | None:
        """The word after a flag."""
        return self.argv[self.argv.index(flag) + 1] if flag in self.argv else None

    def number(self, flag: str, default: int = 1) -> int:
        """The whole number after a flag."""
        value = self.value(flag)
        return default if value is None else int(value)


class Stage:
    """A folder with rendered files, and recording programs in place of engines.

    Args:
        folder: an empty one.
        files: text by relative path.
    """

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self.folder, self.files = folder / "launch files", files
        self._stage = folder / "stage"
        for name in ("bin", "calls", "granted", "groups"):
            (self._stage / name).mkdir(parents=True)
        fakes = {
            "mpirun": _MPIRUN,
            "srun": _SRUN,
            "scontrol": _SCONTROL,
            "getent": _GETENT,
            "curl": _CURL,
            "sleep": _SLEEP,
        }
        for name, text in (dict.fromkeys(PROGRAMS, _RECORD) | fakes).items():
            (self._stage / "bin" / name).write_text(text)
            (self._stage / "bin" / name).chmod(0o755)
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def fill_in(self) -> None:
        """Name every host in `hosts.env` after its pool and node, as the node's script is."""
        lines = []
        for line in self.files["hosts.env"].splitlines():
            name = line[:-1].removeprefix("HOST_").lower().replace("_", "-")
            lines.append(line + name if line.endswith("=") else line)
        (self.folder / "hosts.env").write_text("\n".join(lines) + "\n")

    def grant(self, host: str, gpus: str, group: int = 0) -> None:
        """Let Slurm grant GPUs on a host."""
        (self._stage / "granted" / host).write_text(gpus)
        (self._stage / "groups" / host).write_text(str(group))

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder of the files."""
        kept = {"PATH": f"{self._stage / 'bin'}:{os.environ['PATH']}", "STAGE": str(self._stage), "LC_ALL": "C.UTF-8"}
        return subprocess.run(
            command, cwd=self.folder, env=kept | variables, capture_output=True, text=True, timeout=60, check=False
        )

    def calls(self) -> list[Call]:
        """What was called since the last time one asked."""
        found = []
        for where in sorted((self._stage / "calls").glob("*.where")):
            file = where.with_suffix("")
            node, gpus, rank, host = where.read_text(encoding="utf-8").split("\0")[:4]
            argv = tuple(file.read_text(encoding="utf-8").split("\0")[:-1])
            found.append(Call(argv, node, tuple(int(g) for g in gpus.split(",") if g), int(rank), host))
            where.unlink()
            file.unlink()
        return found


def shares(calls: list[Call]) -> list[Call]:
    """One call per instance and node: the tasks of a node under MPI, one per GPU that they see, count once."""
    found = []
    for call, times in Counter(sorted(calls, key=lambda call: call.rank)).items():
        assert times == (len(call.gpus) if call.argv[0] == "trtllm-llmapi-launch" else 1), call
        found.append(call)
    return found


def world_gpus(call: Call, configs: Mapping[str, Any]) -> int:
    """GPUs of the instance that a call belongs to, from its own words (or the YAML file that they name)."""
    if "trtllm-serve" in call.argv:
        config = next(configs[word] for word in call.argv if word in configs)
        return int(config["tensor_parallel_size"] * config["pipeline_parallel_size"])
    if call.argv[0] == "python3":
        return call.number("--tp-size" if "--tp-size" in call.argv else "--tensor-parallel-size") * (
            call.number("--pp-size") if "--pp-size" in call.argv else call.number("--pipeline-parallel-size")
        )
    return (
        call.number("--tensor-parallel-size")
        * call.number("--pipeline-parallel-size")
        * call.number("--data-parallel-size")
    )
