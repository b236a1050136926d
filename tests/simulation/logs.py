"""Records what the library logs, and warnings, in the journal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager

from .journal import Journal


@contextmanager
def logging_to(journal: Journal) -> Generator[None]:
    """Record what the library logs."""
    logger, handler = logging.getLogger("humphrey_trio"), _Recorder(journal)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _Recorder(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self._journal.log.append(record)
        if hasattr(record, "close_record"):
            self._journal.records[record.stream_id].append(record.close_record)  # type: ignore[attr-defined]


@contextmanager
def warnings_to(journal: Journal) -> Generator[None]:
    """Record warnings, such as one about a coroutine that was never awaited."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    journal.faults.extend(f"warning: {one.message}" for one in caught)
