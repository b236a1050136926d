"""The resolution of the library's deadlines."""

from __future__ import annotations

from typing import Any

import pytest

#: Seconds between two sweeps of the deadlines (docs/architecture.md, "Time").
SWEEP = 0.25


def soon_after(seconds: float, *, sweeps: int = 1) -> Any:
    """A time that is compared equal to those from ``seconds`` to so many sweeps later."""
    return pytest.approx(seconds + sweeps * SWEEP / 2, abs=sweeps * SWEEP / 2 + 1e-6)
