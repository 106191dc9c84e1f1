"""Flag tables: complete, consistent, and clear about what they do not know."""

import pytest

from planner.launch.router import POLICY
from specs.engine_table import (
    EngineTable,
    Flag,
    FlagKind,
    default_version,
    engine_table,
    is_release,
    nearest_version,
    versions,
)
from specs.errors import SpecError
from specs.service import Engine, Mode

TABLES = [(engine, version) for engine in Engine for version in versions(engine)]


@pytest.fixture(params=TABLES, ids=lambda pair: f"{pair[0].value}-{pair[1]}")
def table(request: pytest.FixtureRequest) -> EngineTable:
    return engine_table(*request.param)


def test_every_engine_has_two_versions() -> None:
    assert all(len(versions(engine)) >= 2 for engine in Engine)
    assert {"0.30.0", "0.33.0"} <= set(versions(Engine.VLLM))


def test_concepts_name_flags_of_their_program(table: EngineTable) -> None:
    assert {"server", "router"} <= set(table.programs)
    for program in table.programs.values():
        assert program.source
        for concept, flag in program.concepts.items():
            assert flag in program.flags, concept


def test_words_of_the_engine_are_accepted_by_its_flags(table: EngineTable) -> None:
    for program in table.programs.values():
        for concept, words in program.values.items():
            if concept in program.concepts:
                flag = program.flags[program.concepts[concept]]
                assert all(flag.refusal(word) is None for word in words.values()), concept


def test_the_routers_policy_is_accepted(table: EngineTable) -> None:
    if table.router.has("policy"):
        assert table.router.words("policy", POLICY)


def test_spellings_are_unambiguous(table: EngineTable) -> None:
    for program in table.programs.values():
        spellings = [s for name, flag in program.flags.items() for s in (name, *flag.aliases)]
        assert len(spellings) == len(set(spellings))


def test_yaml_keys_have_parents(table: EngineTable) -> None:
    for keys in table.documents.values():
        for key in keys:
            parent = key.rpartition(".")[0]
            assert not parent or keys[parent].kind is FlagKind.JSON


def test_renamed_and_dropped_flags_show() -> None:
    old, new = engine_table(Engine.SGLANG, "0.5.21").server, engine_table(Engine.SGLANG, "0.5.23").server
    assert old.flag("attention_data_parallel") == "--dp-size"
    assert new.flag("attention_data_parallel") == "--attn-dp-size"
    assert "--attn-dp-size" not in old.flags
    vllm = {version: engine_table(Engine.VLLM, version).server for version in versions(Engine.VLLM)}
    assert "moonep" in vllm["0.33.0"].flags["--all2all-backend"].choices
    assert "moonep" not in vllm["0.30.0"].flags["--all2all-backend"].choices


def test_defaults() -> None:
    assert default_version(Engine.VLLM) == "0.33.0"
    assert default_version(Engine.VLLM, Mode.PREFILL_DECODE_AFD) == "0.30.0"
    assert engine_table(Engine.VLLM, mode=Mode.AFD).afd
    assert not engine_table(Engine.VLLM).afd
    assert engine_table(Engine.SGLANG, mode=Mode.AFD).version == default_version(Engine.SGLANG)
    assert engine_table(Engine.VLLM, "v0.33.0") is engine_table(Engine.VLLM)
    assert all(is_release(default_version(engine, mode)) for engine in Engine for mode in Mode)


def test_a_version_that_is_no_release_extends_one_and_is_never_the_nearest() -> None:
    base, extended = (engine_table(Engine.SGLANG, version) for version in ("0.5.21", "0.5.21+pr36258"))
    added = {"--afd-role", "--afd-transfer-backend", "--afd-ffn-addr"}
    assert set(extended.server.flags) - set(base.server.flags) == added
    assert base.lacks.keys() == {"afd"}
    assert not extended.lacks
    assert extended.router == base.router
    with pytest.raises(SpecError, match=r"nearest: 0\.5\.21; accepted: 0\.5\.21, 0\.5\.21\+pr36258, 0\.5\.23"):
        engine_table(Engine.SGLANG, "0.5.21.5")


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("0.31", "0.30.0"), ("0.32.1", "0.33.0"), ("1.0", "0.33.0"), ("latest", "0.33.0"), ("0.1", "0.30.0")],
)
def test_nearest_version(asked: str, nearest: str) -> None:
    assert nearest_version(asked, ("0.30.0", "0.33.0")) == nearest


def test_unknown_version_is_refused() -> None:
    with pytest.raises(
        SpecError, match=r"no flag table for vllm '0\.31'; nearest: 0\.30\.0; accepted: 0\.30\.0, 0\.33"
    ) as error:
        engine_table(Engine.VLLM, "0.31")  # fmt: skip
    assert error.value.field == "--engine-version"
    for hostile in ("../../secret", "0.33.0/../x", "\0", "9" * 5000):
        with pytest.raises(SpecError, match="no flag table"):
            engine_table(Engine.VLLM, hostile)


@pytest.mark.parametrize(
    ("flag", "good", "bad"),
    [
        (Flag(kind=FlagKind.SWITCH), [None], ["true"]),
        (Flag(kind=FlagKind.INT), ["3", -1, 8], [None, "3.5", "x", True, "", "1 2"]),
        (Flag(kind=FlagKind.FLOAT), ["0.9", ".5", "1e-3", 1], [None, "nan", "inf", "a"]),
        (Flag(kind=FlagKind.CHOICE, choices=("a", 2)), ["a", "2", 2], ["b", None]),
        (Flag(kind=FlagKind.JSON), ['{"a":1}', {}], ["[1]", "{", "3"]),
        (Flag(kind=FlagKind.BOOL), [True, "false"], ["yes", 2, None]),
    ],
)
def test_values(flag: Flag, good: list[object], bad: list[object]) -> None:
    assert all(flag.refusal(value) is None for value in good)  # type: ignore[arg-type]
    assert all(flag.refusal(value) for value in bad)  # type: ignore[arg-type]
