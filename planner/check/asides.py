"""Lines that a user adds to a script and that change nothing that is counted.

Allowed are `export NAME=text` of variables that neither scripts nor engines read as settings, `echo` and `printf` of
plain text, and `module load NAME`. A file that is sourced may do anything: it is named in a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from planner.check.findings import Findings
from planner.check.shell import Command, Word

RULE = "script"

_SETTING = re.compile(
    # what scripts are told: hosts, ranks, GPUs, and whatever launches them
    r"(HOST|NODE|LEADER|MASTER|GROUP|POD|RANK|LOCAL_|WORLD_|LWS_|CLEAVE_|KUBERNETES_|SLURM|SRUN_|SBATCH_|SKYPILOT_|RAY_"
    r"|OMPI_|PMI|PRTE_|MPI|CUDA_|NVIDIA_|HIP_|ROCR_|ROCM_|GPU_|ASCEND_|ZE_"
    # engines, which read many of their flags from variables as well
    r"|VLLM_|SGLANG_|SGL_|TRTLLM_|TLLM_|TRT_|DYN_|DMLC_|AFD_"
    # what bash, the linker and Python look programs up by; the last are read-only, so that bash stops at them
    r"|BASH|ENV$|IFS$|PATH$|CDPATH$|PWD$|OLDPWD$|SHELL|GLOBIGNORE$|POSIXLY_CORRECT$|LD_|DYLD_|PYTHON|VIRTUAL_ENV"
    r"|UID$|EUID$|PPID$)"
)
_HARMLESS = re.compile(r"CUDA_HOME|PYTHONUNBUFFERED|\w+_LOG(GING)?_LEVEL|(http|https|no|all)_proxy")
_OF_FILES = ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN")
"""Harmless variables that rendered files set themselves."""
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_MODULE = re.compile(r"[\w.+/-]+")
_LIKE = 0.9
"""Similarity from which a name is taken for a misspelled one."""


def without_asides(commands: Iterable[Command], findings: Findings) -> list[Command]:
    """The commands that may change what is counted."""
    left = []
    for command in commands:
        if command.name in ("source", ".") and _alone(command) and len(command.words) == 2:
            message = f"reads {command.words[1].raw[:80]}, and what that does is not checked"
            findings.doubtful(RULE, command.place, message)
        elif not (_alone(command) and _is_aside(command)):
            left.append(command)
    return left


def _alone(command: Command) -> bool:
    """Whether a command is no part of a pipe, list or loop, and reads and writes no file."""
    return command.end in ("\n", ";") and not (command.redirects or command.assignments or command.here)


def _is_aside(command: Command) -> bool:
    words = command.words[1:]
    if not words or not all(map(_is_text, words)):
        return False
    match command.name:
        case "export":
            return all(_sets_harmless(word.raw) for word in words)
        case "echo":
            return True
        case "printf":
            return not words[0].raw.startswith("-")  # `printf -v` sets a variable
        case "module":
            return words[0].raw == "load" and len(words) > 1 and all(_MODULE.fullmatch(word.raw) for word in words[1:])
    return False


def _is_text(word: Word) -> bool:
    """Whether bash expands nothing in a word."""
    return all(part.kind == "text" for part in word.parts)


def _sets_harmless(raw: str) -> bool:
    name, equals, _ = raw.partition("=")
    return bool(equals) and is_harmless_variable(name)


def is_harmless_variable(name: str) -> bool:
    """Whether a variable changes nothing that is counted; one that looks like a misspelled one of the files may."""
    if _HARMLESS.fullmatch(name) or name in _OF_FILES:
        return True
    misspelled = get_close_matches(name, _OF_FILES, n=1, cutoff=_LIKE)
    return _VARIABLE.fullmatch(name) is not None and _SETTING.match(name) is None and not misspelled
