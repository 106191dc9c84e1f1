"""Commands through an engine's own parser: toy engines, and real ones where they are installed."""

import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from planner.check.check import check_files
from planner.check.findings import Findings
from planner.check.report import Report
from planner.check.rules import parser as rule
from planner.check.source import SourceFile
from planner.render import Target
from specs.engine_table import engine_table, versions
from specs.service import Engine
from tests.check.folders import CRDS, folder

_SGLANG = """\
import argparse
from pathlib import Path

class ServerArgs:
    @staticmethod
    def add_cli_args(parser):
        print("an engine that prints")
        for name in {names!r}:
            parser.add_argument(name, nargs="*")
        for name in ("--tp-size", "--max-running-requests"):
            parser.add_argument(name, type=int)
        {more}
"""
_VLLM = {
    "vllm/platforms.py": "class current_platform:\n    device_type = 'cpu'\n",
    "vllm/utils/argparse_utils.py": "from argparse import ArgumentParser as FlexibleArgumentParser\n",
    "vllm/entrypoints/common/cli_args.py": """\
def make_arg_parser(parser):
    parser.add_argument("model_tag", nargs="?")
    for name in {names!r}:
        parser.add_argument(name, nargs="*")
    parser.add_argument("--max-num-seqs", type=int)
    return parser
""",
}
Install = Callable[..., None]


def _package(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        for parent in file.relative_to(folder).parents:
            if parent.name:
                (folder / parent / "__init__.py").touch()
        file.write_text(text)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def sglang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    def install(version: str = "0.5.23", more: str = "pass", lacks: str = "") -> None:
        own = ("--tp-size", "--max-running-requests", "--tensor-parallel-size", lacks)
        table = engine_table(Engine.SGLANG, version if version in versions(Engine.SGLANG) else None)
        names = [name for name in table.server.flags if name not in own]
        text = _SGLANG.format(names=names, more=more)
        _package(tmp_path, "sglang", version, {"sglang/srt/server_args.py": text})
        monkeypatch.syspath_prepend(tmp_path)

    return install


def _check(name: str, target: Target, changed: dict[str, tuple[str, str]] | None = None) -> Report:
    found = folder(name, target)
    assert found is not None
    files = dict(found.files)
    for file, (old, new) in (changed or {}).items():
        assert old in files[file]
        files[file] = files[file].replace(old, new)
    sources = [SourceFile(file, text) for file, text in sorted(files.items())]
    return check_files(sources, Findings(), name, crds=CRDS if CRDS.is_dir() else None)


def _asked(report: Report) -> list[str]:
    return [each.reason for each in report.skipped if each.what.endswith("own parser")]


@pytest.mark.parametrize("target", [Target.SGLANG, Target.SLURM, Target.SKYPILOT, Target.LWS])
def test_an_installed_parser_takes_what_is_rendered(target: Target, sglang: Install) -> None:
    sglang()
    report = _check("wide-sglang", target)
    assert report.violations == ()
    assert _asked(report) == []


def test_a_launcher_s_own_command_is_the_engine_s(sglang: Install) -> None:
    sglang(version="0.5.21")
    report = _check("wide-sglang", Target.DYNAMO)
    assert report.violations == ()
    assert _asked(report) == []


def test_a_refusal_has_its_line_and_the_parser_s_words(sglang: Install) -> None:
    sglang(lacks="--context-length")
    report = _check("wide-sglang", Target.SGLANG)
    (first, *others) = [each for each in report.violations if each.rule == "parser"]
    found = folder("wide-sglang", Target.SGLANG)
    assert found is not None
    assert first.line is not None
    assert "--context-length" in found.files[first.file].split("\n")[first.line - 1]
    assert first.field == "--context-length"
    assert "sglang 0.5.23's own parser: unrecognized arguments: --context-length" in first.message
    assert len(others) == sum("--context-length" in text for text in found.files.values()) - 1


def test_a_value_that_only_the_machine_knows_is_no_refusal(sglang: Install) -> None:
    sglang()
    name = "instances/chat-decode-0-node0.sh"
    report = _check("wide-sglang", Target.SGLANG, {name: ("--tp-size 32", '--tp-size "$HOST_B200_1"')})
    assert not [each for each in report.violations if each.rule == "parser"]


def test_another_version_is_said_with_both(sglang: Install) -> None:
    sglang(version="0.5.99")
    (reason,) = _asked(_check("wide-sglang", Target.SGLANG))
    assert "0.5.99" in reason
    assert "0.5.23" in reason


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("raise RuntimeError('no driver')", "no driver"),
        ("__import__('os')._exit(3)", "status 3"),
        ("__import__('time').sleep(60)", "within 2 s"),
    ],
)
def test_an_engine_that_does_not_answer_is_said(
    more: str, said: str, sglang: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule, "SECONDS", 2.0)
    sglang(more=more)
    report = _check("wide-sglang", Target.SGLANG)
    assert report.violations == ()
    (reason,) = _asked(report)
    assert said in reason


def test_vllm_with_its_positional_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in engine_table(Engine.VLLM).server.flags if name not in ("--max-num-seqs", "--help")]
    files = {path: text.format(names=names) if "names" in text else text for path, text in _VLLM.items()}
    _package(tmp_path, "vllm", "0.33.0+cpu", files)
    monkeypatch.syspath_prepend(tmp_path)
    for target in (Target.VLLM, Target.LWS, Target.RAY):
        report = _check("single", target)
        assert report.violations == ()
        assert _asked(report) == []
    name = "instances/chat-mixed-0-node0.sh"
    report = _check("single", Target.VLLM, {name: ("--max-num-seqs 8", "--max-num-seqs 1e3")})
    (refused,) = [each for each in report.violations if each.rule == "parser"]
    assert "invalid int value: '1e3'" in refused.message
    assert refused.field == "--max-num-seqs"


def test_a_file_of_flags_is_not_opened(sglang: Install) -> None:
    sglang()
    name = "instances/chat-decode-0-node0.sh"
    report = _check("wide-sglang", Target.SGLANG, {name: ("--tp-size 32", "--tp-size 32 --config /etc/passwd")})
    assert any("would open" in each.reason for each in report.skipped)


def test_what_is_not_installed_is_said_once() -> None:
    if "vllm" in sys.modules or _version("vllm") is not None:
        pytest.skip("vllm is installed")
    assert _asked(_check("wide", Target.VLLM)) == ["vllm is not installed here"]
    (reason,) = _asked(_check("wide-trtllm", Target.TRTLLM))
    assert "without a GPU" in reason


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


@pytest.mark.parametrize(("engine", "name"), [(Engine.VLLM, "wide"), (Engine.SGLANG, "wide-sglang")])
def test_the_real_parser_takes_what_is_rendered(engine: Engine, name: str) -> None:
    version = _version(engine.value)
    if version is None or version not in versions(engine):
        pytest.skip(f"{engine.value} is not installed in a version with a table ({', '.join(versions(engine))})")
    from planner.render import render

    found = folder(name, Target(engine.value))
    assert found is not None
    files = render(found.plan, Target(engine.value), engine_version=version)
    report = check_files([SourceFile(file, text) for file, text in files.items()], Findings(), name)
    assert report.violations == ()
    assert _asked(report) == []
