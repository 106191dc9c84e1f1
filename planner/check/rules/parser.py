"""Every engine command against the engine's own argument parser, where the version of its table is installed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from planner.check.arguments import Spoken, is_flag
from planner.check.findings import Findings
from planner.check.instance import Process
from specs.engine_table import FlagKind
from specs.service import Engine

RULE = "parser"
SECONDS = 180.0
"""For an engine to be imported and to read all commands."""
PACKAGES = {Engine.VLLM: "vllm", Engine.SGLANG: "sglang"}
"""Engines whose parser can be built without a GPU."""
FILES = frozenset({"--config"})
"""Flags by which a parser reads a file of more flags: files outside the folder are not for a check to read."""

_FLAG = re.compile(r"(?<![\w-])--?[A-Za-z][\w.-]*")
_UNKNOWN = {FlagKind.INT: "1", FlagKind.FLOAT: "1"}
"""Stands for a value that only the machine that runs a command knows."""


def check_parsers(processes: Iterable[Process], findings: Findings) -> None:
    """Let the installed engines read the commands; what one refuses is a violation, in the parser's own words.

    An engine that is not installed, or in another version, is listed once as not checked.
    """
    by_version: dict[tuple[Engine, str], list[Process]] = {}
    for process in processes:
        by_version.setdefault((process.engine, process.table.version), []).append(process)
    for (engine, version), alike in by_version.items():
        reason = _missing(engine, version)
        if reason is None:
            reason = _ask(engine, alike, findings)
        if reason is not None:
            findings.skip(alike[0].place.file, f"{alike[0].table.title}: the engine's own parser", reason)


def _missing(engine: Engine, version: str) -> str | None:
    """Why the parser of a version cannot be asked here, or None."""
    package = PACKAGES.get(engine)
    if package is None:
        return f"is not asked: only those of {' and '.join(PACKAGES.values())} can be built without a GPU"
    try:
        installed = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"{package} is not installed here"
    if version not in (installed, installed.partition("+")[0]):
        return f"{package} {installed} is installed here, and the files are for {version}"
    return None


def _ask(engine: Engine, processes: Sequence[Process], findings: Findings) -> str | None:
    """Note what the parser refuses; gives why it did not answer, where it did not."""
    commands: dict[tuple[str, ...], list[Process]] = {}
    for process in processes:
        words = _words(process)
        if any(word.partition("=")[0] in FILES for word in words):
            what = f"the command on line {process.place.line}"
            findings.skip(process.place.file, what, "names a file of flags, which the engine's own parser would open")
            continue
        commands.setdefault(words, []).append(process)
    answers = _answers(engine, list(commands))
    if isinstance(answers, str):
        return answers
    for refusal, alike in zip(answers, commands.values(), strict=True):
        for process in alike if refusal is not None else ():
            word = _spoken_in(str(refusal), process)
            place = word.place if word is not None else process.place
            flag = word.value.partition("=")[0] if word is not None else None
            findings.wrong(RULE, place, f"is refused by {process.table.title}'s own parser: {refusal}", flag)
    return None


def _words(process: Process) -> tuple[str, ...]:
    """The words of a command that are the engine's own: a launcher around it may have flags beside them."""
    own, all_of_them = process.table.server, process.arguments.program
    words: list[str] = []
    kind: FlagKind | None = None
    dropped = False
    for spoken in process.arguments.words:
        word = spoken.value
        if is_flag(word):
            spelling, equals, value = word.partition("=")
            dropped = spelling not in own.spellings and spelling in all_of_them.spellings
            kind = own.flags[own.spellings[spelling]].kind if spelling in own.spellings else None
            if equals and "$" in value:
                word = f"{spelling}={_UNKNOWN.get(kind, value) if kind is not None else value}"
        elif "$" in word and kind is not None:
            word = _UNKNOWN.get(kind, word)
        if not dropped:
            words.append(word)
    return tuple(words)


def _answers(engine: Engine, commands: Sequence[Sequence[str]]) -> list[str | None] | str:
    """What the parser says of each command, or why it says nothing."""
    paths = os.pathsep.join(str(Path(path).resolve()) for path in sys.path)
    hidden = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "planner.check.engine_parser", engine.value],
                input=json.dumps(commands),
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=SECONDS,
                cwd=folder,
                env={**os.environ, **hidden, "PYTHONPATH": paths},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"did not answer within {SECONDS:g} s"
        except OSError as error:
            return f"could not be started: {error.strerror}"
    try:
        found = json.loads(done.stdout)
    except ValueError:
        found = None
    if done.returncode or not isinstance(found, list) or len(found) != len(commands):
        last = (done.stderr.strip().splitlines() or ["nothing was printed"])[-1]
        return f"could not be asked (status {done.returncode}): {last[:200]}"
    return [None if said is None else str(said) for said in found]


def _spoken_in(refusal: str, process: Process) -> Spoken | None:
    """The flag of a command that a refusal names, or None."""
    spellings = process.table.server.spellings
    for named in _FLAG.findall(refusal):
        for word in process.arguments.words:
            spelling = word.value.partition("=")[0]
            if spelling == named or spellings.get(spelling, spelling) == spellings.get(named, named):
                return word
    return None
