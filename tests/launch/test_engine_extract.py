"""Flags as they are read from a parser."""

import argparse
import json
from functools import partial
from pathlib import Path

import pytest
import yaml

from specs import engine_extract
from specs.engine_extract import flags_of, lines, main
from specs.engine_table import Flag, FlagKind


def _optional(converter: object) -> object:
    def read(text: str) -> object:
        return None if text == "None" else converter(text)  # type: ignore[operator]

    return read


def human_readable_int(text: str) -> int:
    return int(text)


def parse_dataclass(text: str) -> object:
    return json.loads(text)


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--width", "--tp", "-t", type=int)
    parser.add_argument("--share", type=_optional(float))
    parser.add_argument("--settings", type=_optional(parse_dataclass))
    parser.add_argument("--object", type=_optional(json.loads))
    parser.add_argument("--any-json", type=json.loads)
    parser.add_argument("--format", choices={"b", "a", None})
    parser.add_argument("--path", action="append")
    parser.add_argument("--tokens", type=partial(_optional(human_readable_int)))
    parser.add_argument("--fast", action=argparse.BooleanOptionalAction)
    parser.add_argument("--level", choices=["low", "high", 3])
    parser.add_argument("--hosts", nargs="+")
    parser.add_argument("-x")
    return parser


def test_flags_of_a_parser(parser: argparse.ArgumentParser) -> None:
    assert flags_of(parser) == {
        "--any-json": Flag(kind=FlagKind.STR),
        "--fast": Flag(kind=FlagKind.SWITCH, aliases=("--no-fast",)),
        "--format": Flag(kind=FlagKind.CHOICE, choices=("None", "a", "b")),
        "--hosts": Flag(kind=FlagKind.STR, many=True),
        "--level": Flag(kind=FlagKind.CHOICE, choices=("low", "high", 3)),
        "--object": Flag(kind=FlagKind.JSON),
        "--path": Flag(kind=FlagKind.STR, many=True),
        "--settings": Flag(kind=FlagKind.JSON),
        "--share": Flag(kind=FlagKind.FLOAT),
        "--tokens": Flag(kind=FlagKind.INT),
        "--width": Flag(kind=FlagKind.INT, aliases=("--tp", "-t")),
    }


def test_lines_are_a_part_of_a_table(parser: argparse.ArgumentParser) -> None:
    text = yaml.safe_load("\n".join(lines(flags_of(parser))))
    assert {name: Flag.model_validate(entry) for name, entry in text.items()} == flags_of(parser)


def test_command(
    parser: argparse.ArgumentParser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(engine_extract.PARSERS, "vllm", lambda: parser)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9.9")
    assert main(["vllm"]) == 0
    written = capsys.readouterr().out
    assert written.startswith("# vllm 9.9.9\n--any-json: {kind: str}\n--fast: {kind: switch")
    assert main(["vllm", "--out", str(tmp_path / "flags.yaml")]) == 0
    assert (tmp_path / "flags.yaml").read_text() == written


def test_an_engine_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise engine_extract.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert main(["sglang"]) == 2
    assert "sglang: cannot be read here" in capsys.readouterr().err
