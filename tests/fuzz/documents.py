"""Hostile variants of good documents: one to four leaves, keys or branches changed, by a seeded generator."""

import copy
import random
from collections.abc import Iterator
from typing import Any

HOSTILE_TEXTS = (
    "",
    " ",
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "$(touch owned)",
    "`touch owned`",
    "; touch owned #",
    "' || touch owned '",
    '" && touch owned "',
    "{{ 7 * 7 }}",
    "{% raw %}",
    "${HOME}",
    "%s%n",
    "\n- injected: true",
    "name\nkey: value",
    "\x00",
    "\x1b[31m",
    "\ud800",
    "é́ 中 🙂",
    "a" * 5000,
    "!!python/object/apply:os.system ['touch owned']",
    "*alias",
    "&anchor",
    "null",
    "true",
    "1e3",
    "<script>alert(1)</script>",
    "-rf",
    "--help",
)
HOSTILE_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    7,
    2**31,
    2**63,
    10**30,
    -(10**30),
    0.0,
    -0.5,
    1e-300,
    1e300,
    float("inf"),
    float("nan"),
    [],
    {},
    [[]],
    {"": None},
    [1, "a", None],
    {"mean": 10, "cv": 5},
    {"values": [1, 2], "weights": [0, 1]},
)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of all values, branches included, the root left out."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from leaves(item, (*path, i))


def parent(document: Any, path: tuple[str | int, ...]) -> Any:
    for part in path[:-1]:
        document = document[part]
    return document


def hostile(document: dict[str, Any], generator: random.Random) -> dict[str, Any]:
    """One variant."""
    changed = copy.deepcopy(document)
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        paths = list(leaves(changed))
        if not paths:
            break
        path = generator.choice(paths)
        branch, last = parent(changed, path), path[-1]
        match generator.randrange(8):
            case 0:
                branch[last] = generator.choice(HOSTILE_TEXTS)
            case 1:
                branch[last] = copy.deepcopy(generator.choice(HOSTILE_VALUES))
            case 2:
                del branch[last]
            case 3:
                if isinstance(branch, dict):
                    branch[generator.choice(HOSTILE_TEXTS)] = branch.pop(last)
                else:
                    branch.extend(copy.deepcopy(branch) * 3)
            case 4:
                branch[last] = copy.deepcopy(parent(changed, generator.choice(paths)))
            case 5:
                value = branch[last]
                if isinstance(value, int | float) and not isinstance(value, bool):
                    branch[last] = generator.choice((value + 1, value - 1, value * 2, value * 1000, -value, value / 3))
                else:
                    branch[last] = str(value)
            case 6:
                branch[last] = [branch[last], branch[last]]
            case _:
                branch[last] = {"extra": branch[last]}
    return changed
