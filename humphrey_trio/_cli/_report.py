"""The report of ``--check``: facts, notes and warnings, and their text."""

from __future__ import annotations

_WIDTH = 12


class Report:
    """The facts, the notes and the warnings of one check. They are printed in this order.

    Attributes:
        warnings: the texts of the warnings.
    """

    __slots__ = ("_facts", "_notes", "warnings")

    def __init__(self) -> None:
        self._facts: list[str] = []
        self._notes: list[str] = []
        self.warnings: list[str] = []

    def fact(self, name: str, line: str) -> None:
        """Add a setting that is in force."""
        self._facts.append(f"{name:{_WIDTH}} {line}")

    def note(self, line: str) -> None:
        """Add a hint about something that may be intended."""
        self._notes.append(line)

    def warn(self, line: str) -> None:
        """Add something that does not fit together, with what to do."""
        self.warnings.append(line)

    def __str__(self) -> str:
        notes = [f"note: {line}" for line in self._notes]
        warnings = [f"warning: {line}" for line in self.warnings] or ["no warnings"]
        return "\n".join([*self._facts, *notes, *warnings])
