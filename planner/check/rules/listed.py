"""Files of a folder against the list that rendering left in it: what was deleted, and what was put there."""

from __future__ import annotations

from planner.check.findings import Findings
from planner.check.folder import Folder
from planner.check.place import Place

RULE = "file"
LIST = ".cleave-files"


def check_listed(folder: Folder, findings: Findings) -> None:
    """Note files that are listed and missing, or there and not listed; nothing where there is no list."""
    if LIST not in folder.files:
        return
    folder.read.add(LIST)
    lines = folder.files[LIST].text.splitlines()
    for number, line in enumerate(lines, 1):
        if line not in folder.files:
            findings.wrong(RULE, Place(LIST, number), f"lists {line[:100]!r}, which is not in the folder")
        elif lines.index(line) != number - 1:
            findings.wrong(RULE, Place(LIST, number), f"lists {line!r} twice")
    for name in sorted(folder.files.keys() - {LIST, *lines}):
        findings.wrong(RULE, Place(name), f"is not in {LIST}: rendering did not write it")
