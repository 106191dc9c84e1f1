"""Whatever is fed to the loader, it loads or ends in `SpecError`: never anything else, and never for long."""

import copy
import json
from collections.abc import Callable
from tempfile import NamedTemporaryFile
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specs.errors import SpecError
from specs.load import load_scenario, parse_scenario
from specs.scenario import Scenario

VALID: dict[str, Any] = {
    "schema": "cleave.scenario/1",
    "cluster": {
        "pools": [
            {
                "name": "b200",
                "gpu": "b200-sxm-180gb",
                "count": 128,
                "gpus_per_node": 8,
                "scale_up_domain": 8,
                "scale_out_gbit_per_s": 400,
                "oversubscription": 2,
                "cost_per_gpu_hour": 3.9,
            },
            {"name": "h20", "gpu": "h20", "count": 16},
        ]
    },
    "services": [
        {
            "name": "coding",
            "model": "deepseek-ai/DeepSeek-V3.2",
            "precision": "fp8",
            "workload": {
                "input_tokens": {"mean": 4000, "cv": 1},
                "output_tokens": {"values": [100, 200], "weights": [1, 2]},
                "prefix_tokens": 2000,
                "prefix_sharing": 4,
                "arrival": {"process": "gamma", "cv": 2},
            },
            "slo": {"ttft_ms": 100, "tpot_ms": 15, "statistic": "mean"},
            "modes": ["aggregated", "afd"],
            "demand_rps": 3,
            "speculative": {"draft_tokens": 3, "accept_length": 2.5},
            "limits": {"tp": [1, 2], "pools": ["b200"]},
        },
        {
            "name": "chat",
            "model": "gpt-oss-120b",
            "workload": "chat",
            "slo": {"ttft_ms": 50, "tpot_ms": 15},
            "demand_rps": 1,
        },
    ],
    "objective": {"minimize": "cost"},
}

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=20),
    st.sampled_from([0, -1, 10**30, -(10**400), 1e308, float("nan"), "", "h200", "../x", "~", "a\0b", "x" * 5000, "/"]),
)
GARBAGE = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything below the top."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in ((*path, key), *paths(item, (*path, key)))]


PATHS = paths(VALID)


@st.composite
def mutants(draw: st.DrawFn) -> dict[str, Any]:
    """Return the valid scenario with one to three things deleted, renamed, replaced or added."""
    mutant = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from(PATHS))
        node: Any = mutant
        try:
            for part in above:
                node = node[part]
            old = node[key]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
        if isinstance(node, str):
            continue  # an earlier change made a text of what was a list
        action = draw(st.sampled_from(["delete", "rename", "replace", "negate", "wrap", "swap", "add"]))
        match action:
            case "delete":
                del node[key]
            case "rename" if isinstance(node, dict):
                node[draw(st.text(max_size=8) | st.just(f"{key}s"))] = node.pop(key)
            case "negate" if isinstance(old, int | float):
                node[key] = -old
            case "wrap":
                node[key] = draw(st.sampled_from([[old], {"mean": old}, str(old)]))
            case "swap":
                other: Any = VALID
                for part in draw(st.sampled_from(PATHS)):
                    other = other[part]
                node[key] = copy.deepcopy(other)
            case "add" if isinstance(old, list):
                old.append(draw(GARBAGE))
            case _:
                node[key] = draw(GARBAGE)
    return mutant


def outcome(read: Callable[[], Scenario]) -> Scenario | SpecError:
    """Return the scenario or the refusal, which must be printable; let everything else through."""
    try:
        return read()
    except SpecError as error:
        str(error).encode()
        return error


def parsed(text: str) -> Scenario | SpecError:
    return outcome(lambda: parse_scenario(text, "fuzz.yaml"))


QUICK = settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow])


def test_the_scenario_under_mutation_is_valid() -> None:
    read = parsed(json.dumps(VALID))
    assert isinstance(read, Scenario)
    assert parsed(yaml.safe_dump(VALID)) == read


@QUICK
@given(mutants())
def test_mutants_load_or_are_refused(mutant: dict[str, Any]) -> None:
    text = json.dumps(mutant)
    read = parsed(text)
    if isinstance(read, Scenario):
        assert parse_scenario(read.to_json()) == read
    else:
        # The whole document is on one line, which is not known where JSON escapes what YAML cannot.
        assert read.line == 1 or "\\u" in text
    parsed(yaml.dump(mutant, allow_unicode=True))


@QUICK
@given(st.text(max_size=200) | GARBAGE.map(yaml.dump))
def test_random_texts_are_refused(text: str) -> None:
    assert isinstance(parsed(text), SpecError)


@QUICK
@given(st.binary(max_size=200), st.integers(0, 2000), st.integers(0, 20))
def test_files_with_bytes_overwritten_load_or_are_refused(noise: bytes, start: int, length: int) -> None:
    data = yaml.safe_dump(VALID).encode()
    with NamedTemporaryFile(suffix=".yaml") as file:
        file.write(data[:start] + noise[:length] + data[start + length :])
        file.flush()
        read = outcome(lambda: load_scenario(file.name))
        assert isinstance(read, Scenario) or read.file == file.name
