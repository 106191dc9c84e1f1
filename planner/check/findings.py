"""Collects what rules find, in the order of files and lines."""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.check.place import Place
from planner.check.report import Skipped, Violation

MAX_FINDINGS = 1000
"""Violations that a report lists; a folder with more is wrong throughout."""

_Key = tuple[str, int | None, str, str, str | None]


@dataclass
class Findings:
    """Violations, warnings, and what was not checked."""

    violations: dict[_Key, Violation] = field(default_factory=dict)
    warnings: dict[_Key, Violation] = field(default_factory=dict)
    skipped: dict[tuple[str, str, str], Skipped] = field(default_factory=dict)

    def wrong(self, rule: str, place: Place, message: str, name: str | None = None) -> None:
        """Note a violation."""
        self._note(self.violations, rule, place, message, name)

    def doubtful(self, rule: str, place: Place, message: str, name: str | None = None) -> None:
        """Note a warning."""
        self._note(self.warnings, rule, place, message, name)

    def skip(self, file: str, what: str, reason: str) -> None:
        """Note what was not checked."""
        self.skipped.setdefault((file, what, reason), Skipped(file=file, what=what, reason=reason))

    @staticmethod
    def ordered(notes: dict[_Key, Violation]) -> tuple[Violation, ...]:
        """Notes in the order of files and lines."""
        return tuple(sorted(notes.values(), key=lambda note: (note.file, note.line or 0, note.rule, note.message)))

    def _note(
        self,
        notes: dict[_Key, Violation],
        rule: str,
        place: Place,
        message: str,
        name: str | None,
    ) -> None:
        if len(notes) < MAX_FINDINGS:
            key = (place.file, place.line, rule, message, name)
            notes.setdefault(key, Violation(file=place.file, line=place.line, rule=rule, message=message, field=name))
