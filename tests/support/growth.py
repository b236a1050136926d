"""Measurements of how the time of some work grows with the size of its data.

Linear work takes about 4 times as long for 4 times the data, and quadratic work 16 times. Absolute times are never
compared.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from math import inf
from typing import TypeVar

import pytest

Data = TypeVar("Data")
Work = Callable[[int], object]

GROWTH = 4
TOO_MUCH = 9  # between 4 and 16, with room for a busy machine
ROUNDS, MOST_ROUNDS = 3, 8


def assert_linear(work: Work, size: int) -> None:
    """Compare the time of work of a size with that of ``GROWTH`` times the size.

    The shortest of several runs are compared. More runs are made on a busy machine.
    """
    small = large = inf
    gc.disable()
    try:
        for turn in range(1, MOST_ROUNDS + 1):
            small = min(small, _cpu_seconds(work, size))
            large = min(large, _cpu_seconds(work, GROWTH * size))
            if turn >= ROUNDS and large < TOO_MUCH * small:
                return
    finally:
        gc.enable()
    pytest.fail(f"{GROWTH} times the data took {large / small:.1f} times as long")


def made_before(work: Callable[[Data], object], make: Callable[[int], Data], size: int) -> Work:
    """Work on data that was made before the measurement."""
    data = {number: make(number) for number in (size, GROWTH * size)}
    return lambda number: work(data[number])


def _cpu_seconds(work: Work, size: int) -> float:
    begun = time.process_time()
    work(size)
    return time.process_time() - begun
