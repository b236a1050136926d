"""The text that fills messages and bodies."""

from __future__ import annotations

import random


def padding(source: random.Random, size: int) -> str:
    """Compressible text of so many bytes."""
    words = "".join(source.choices("abcdefgh \n", k=min(size, 60)))
    return (words * (size // max(1, len(words)) + 1))[:size]
