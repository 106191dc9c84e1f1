"""Bash scripts, put together from lines. Nothing of a scenario gets into them but quoted words and names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SHEBANG = "#!/usr/bin/env bash"
STRICT = "set -euo pipefail"
TO_FOLDER = 'cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."'
"""To the folder of all files, from a script one level below it."""

LOAD_HOSTS = ("set -a", "# shellcheck source=/dev/null", "source ./hosts.env", "set +a")
"""Read the hosts that the user filled in, for this script and those it starts."""

JOIN = (
    "status=0",
    "while ((${#running[@]})); do",
    '  for process in "${!running[@]}"; do',
    '    if kill -0 "$process" 2>/dev/null; then continue; fi',
    "    code=0",
    '    wait "$process" || code=$?',
    '    echo "${running[$process]} ended with status $code" >&2',
    '    unset "running[$process]"',
    "    ((code == 0)) || status=1",
    "  done",
    "  if ((${#running[@]})); then sleep 1; fi",
    "done",
    'exit "$status"',
)
"""Wait for everything in `running` (process id -> name), report each end, and fail if one has failed.

Asking each second works from bash 4.4 on; to be told which process ended takes bash 5.1.
"""

STOP = (
    "trap 'kill \"${!running[@]}\" 2>/dev/null || true' EXIT",
    "trap 'exit 130' INT",
    "trap 'exit 143' TERM",
)
"""When the script ends, so does what it started."""


READY = """\
# ready URL: waits until a server takes requests.
ready() {
  until curl --silent --fail --output /dev/null "$1/health"; do
    echo "waiting for $1" >&2
    sleep 5
  done
}"""


def script(about: Sequence[str], body: Iterable[str], *, shebang: str = SHEBANG) -> str:
    """A script.

    Args:
        about: lines of the comment at its top; of names and numbers alone.
        body: its lines.
        shebang: its first line.
    """
    return "\n".join([shebang, *(f"# {line}" for line in about), *body]) + "\n"


def host_variable(pool: str, node: int) -> str:
    """Name of the variable that holds the host of a node of a pool."""
    return f"HOST_{pool.upper().replace('-', '_')}_{node}"


def required(words: Iterable[str], where: str) -> list[str]:
    """Lines that stop a script where a host that shell words name is empty.

    Args:
        words: of the script's command.
        where: what the user has to do about it.
    """
    names = dict.fromkeys(name for word in words for name in re.findall(r"\$\{(HOST_\w+)\}", word))
    return [f': "${{{name}:?{where}}}"' for name in names]


def exported(variables: Mapping[str, Any]) -> list[str]:
    """Lines that export variables with values that need no quotes."""
    return [f"export {name}={value}" for name, value in variables.items()]
