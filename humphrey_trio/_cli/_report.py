"""The report of ``--check``: facts, notes and warnings, and their text."""

from __future__ import annotations

_WIDTH = 12


class Report:
    """What was found out. The parts are printed in this order, each in the order in which it was added.

    Attributes:
        warnings: what does not fit together.
    """

    __slots__ = ("_facts", "_notes", "warnings")

    def __init__(self) -> None:
        self._facts: list[str] = []
        self._notes: list[str] = []
        self.warnings: list[str] = []

    def fact(self, name: str, line: str) -> None:
        """Add what is in force."""
        self._facts.append(f"{name:{_WIDTH}} {line}")

    def note(self, line: str) -> None:
        """Add what may be intended."""
        self._notes.append(line)

    def warn(self, line: str) -> None:
        """Add what does not fit together, and what to do."""
        self.warnings.append(line)

    def __str__(self) -> str:
        notes = [f"note: {line}" for line in self._notes]
        warnings = [f"warning: {line}" for line in self.warnings] or ["no warnings"]
        return "\n".join([*self._facts, *notes, *warnings])
