"""The simulation of an HTTP app and its WebSocket app: some hundred seeds hold, and faults are found."""

from __future__ import annotations

import pytest

from humphrey_trio import AsyncStream, Response
from tests.simulation.__main__ import explain, first_violation
from tests.simulation.generate import generate
from tests.simulation.runner import run
from tests.simulation.script import Act, Ask, ClientPlan, Script, Setup
from tests.simulation.shrink import shrink

#: ``python -m tests.simulation`` runs other seeds.
SEEDS, CHUNK = 400, 20


@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
def test_seeds(start: int) -> None:
    """The checks of the model hold in each run; a failing seed is shown with the shortest failing script."""
    for seed in range(start, start + CHUNK):
        script = generate(seed)
        if run(script).violations:
            pytest.fail(f"seed {seed}:\n{explain(script)}", pytrace=False)


def test_seed_is_reproducible() -> None:
    """The same seed gives the same script and, step by step, the same run."""
    for seed in range(5):
        script = generate(seed)
        assert script == generate(seed)
        first, second = run(script), run(script)
        assert first.steps == second.steps
        assert [life.received for life in first.journal.clients.values()] == [
            life.received for life in second.journal.clients.values()
        ]


def test_fault_is_found_and_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that does not send a message is a violation, and the script is shortened to that message."""

    async def forget(*args: object, **options: object) -> None:
        pass

    monkeypatch.setattr(AsyncStream, "send", forget)
    noise = (Act(verb="ping"), Act(verb="message", size=10), Act(verb="message", after=0.3))
    talking = ClientPlan(
        name="c0", acts=(*noise, Act(verb="message", inner=(Act(verb="sleep"), Act(verb="send", count=5))))
    )
    script = Script(
        seed=1, setup=Setup(deflate="context"), clients=(talking, ClientPlan(name="c1")), world=(Act(verb="look"),)
    )
    assert first_violation(script) is not None
    shortest = shrink(script, first_violation)
    assert shortest == Script(
        seed=1, clients=(ClientPlan(name="c0", acts=(Act(verb="message", inner=(Act(verb="send"),)),)),)
    )


def test_http_fault_is_found_and_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that sends an empty body for a streamed one is a violation, shortened to that request."""
    monkeypatch.setattr(Response, "stream", lambda *args, **options: Response(200))
    asks = (
        Ask(framing="length", size=10),
        Ask(early=True, answer="producer", length="right", body=(Act(verb="write", size=5), Act(verb="sleep"))),
        Ask(after=0.3),
    )
    clients = (ClientPlan(name="c0", asks=asks), ClientPlan(name="c1", asks=asks[:1], attempts=()))
    script = Script(seed=1, setup=Setup(layers=True, fast=True), clients=clients)
    assert first_violation(script) is not None
    shortest = shrink(script, first_violation)
    assert shortest == Script(
        seed=1, clients=(ClientPlan(name="c0", asks=(Ask(answer="producer", length="right"),), attempts=()),)
    )
