"""Where exceptions stop: a handler's failure is reported and ends there, a cancellation goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn


def report_and_pass(group: BaseExceptionGroup[BaseException], report: Callable[[Exception], None]) -> NoReturn:
    """Take apart what a handler's own nursery raises when it was cancelled and something failed beside that.

    Args:
        group: what was raised; a group of nothing but ``Exception`` would be one itself.
        report: gets what failed, if anything did.

    Raises:
        BaseExceptionGroup: the rest, which has to pass.
    """
    failed, rest = group.split(Exception)
    if failed is not None:
        report(failed)
    assert rest is not None
    raise rest
