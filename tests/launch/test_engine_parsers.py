"""Every command goes through the engine's own argument parser, where a version with a table is installed."""

import argparse
import importlib
import importlib.metadata

import pytest

from specs.engine_table import engine_table, versions
from specs.service import Engine
from tests.launch.components import launched


def _installed(engine: Engine, package: str) -> str:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    version = version.partition("+")[0]
    if version not in versions(engine):
        pytest.skip(f"{package} {version} is installed; tables are of {', '.join(versions(engine))}")
    return version


def _vllm_parser() -> argparse.ArgumentParser:
    platforms = importlib.import_module("vllm.platforms")
    platform = platforms.current_platform
    if not platform.device_type:
        # The parser reads a default from the device; without a GPU there is none.
        type(platform).device_type = "cuda"
    for module in ("vllm.entrypoints.common.cli_args", "vllm.entrypoints.launchers.cli_args"):
        try:
            make = importlib.import_module(module).make_arg_parser
            break
        except ModuleNotFoundError:
            continue
    else:
        pytest.skip("vllm keeps its parser elsewhere")
    parser: argparse.ArgumentParser = make(
        importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser()
    )
    return parser


def _sglang_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    importlib.import_module("sglang.srt.server_args").ServerArgs.add_cli_args(parser)
    return parser


def _spellings(parser: argparse.ArgumentParser) -> set[str]:
    return {word for action in parser._actions for word in action.option_strings} - {"-h", "--help"}


def test_vllm() -> None:
    version = _installed(Engine.VLLM, "vllm")
    parser = _vllm_parser()
    assert set(engine_table(Engine.VLLM, version).server.spellings) == _spellings(parser)
    engine_args = importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs
    for _, table, process in launched("vllm", version):
        model, *flags = process.words[len(table.server.command) :]
        arguments = parser.parse_args(
            ["--model", model, *flags] if "--model" in _spellings(parser) else [model, *flags]
        )
        engine_args.from_cli_args(arguments)


def test_sglang() -> None:
    version = _installed(Engine.SGLANG, "sglang")
    parser = _sglang_parser()
    table = engine_table(Engine.SGLANG, version)
    assert set(table.server.spellings) == _spellings(parser)
    for _, _, process in launched("sglang", version):
        parser.parse_args(list(process.words[len(table.server.command) :]))
