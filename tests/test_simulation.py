"""The simulation of a linked pair holds for some hundred seeds, runs as its seed says, and finds faults."""

from __future__ import annotations

import pytest

from humphrey_trio import AsyncStream
from tests.simulation.__main__ import explain, first_violation
from tests.simulation.generate import generate
from tests.simulation.runner import run
from tests.simulation.script import Act, ClientPlan, Script, Setup
from tests.simulation.shrink import shrink

#: ``python -m tests.simulation`` runs as many others as one likes.
SEEDS, CHUNK = 400, 20


@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
def test_seeds(start: int) -> None:
    """What the model says holds in each run; a seed that fails is shown with the shortest script that does."""
    for seed in range(start, start + CHUNK):
        script = generate(seed)
        if run(script).violations:
            pytest.fail(f"seed {seed}:\n{explain(script)}", pytrace=False)


def test_a_seed_is_one_run() -> None:
    """The same seed gives the same script and, step by step, the same run."""
    for seed in range(5):
        script = generate(seed)
        assert script == generate(seed)
        first, second = run(script), run(script)
        assert first.steps == second.steps
        assert [life.received for life in first.journal.clients.values()] == [
            life.received for life in second.journal.clients.values()
        ]


def test_a_fault_is_found_and_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that does not send a message is found out, and the script is cut down to that message."""

    async def forget(*args: object, **options: object) -> None:
        pass

    monkeypatch.setattr(AsyncStream, "send", forget)
    noise = (Act(verb="ping"), Act(verb="say", size=10), Act(verb="say", after=0.3))
    chatty = ClientPlan(
        name="c0", acts=(*noise, Act(verb="say", inner=(Act(verb="sleep"), Act(verb="send", count=5))))
    )
    script = Script(
        seed=1, setup=Setup(deflate="context"), clients=(chatty, ClientPlan(name="c1")), world=(Act(verb="look"),)
    )
    assert first_violation(script) is not None
    shortest = shrink(script, first_violation)
    assert shortest == Script(
        seed=1, clients=(ClientPlan(name="c0", acts=(Act(verb="say", inner=(Act(verb="send"),)),)),)
    )
