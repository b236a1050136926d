"""The results of a run: samples, their medians and spreads over the rounds, and ratios within rounds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import Result


class Figure(NamedTuple):
    """The median over the rounds, with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure | None:
        found = list(values)
        return cls(statistics.median(found), min(found), max(found)) if found else None


@dataclass(frozen=True)
class Sample:
    """One server on one scenario in one round: a result, or the error."""

    round: int
    scenario: str
    server: str
    result: Result | None
    error: str = ""


@dataclass
class Run:
    """The samples of a run. `about` has the date, the machine, the versions and the options."""

    about: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)

    def scenarios(self) -> list[str]:
        return list(dict.fromkeys(sample.scenario for sample in self.samples))

    def servers(self, scenario: str) -> list[str]:
        return list(dict.fromkeys(sample.server for sample in self.samples if sample.scenario == scenario))

    def results(self, scenario: str, server: str) -> dict[int, Result]:
        """Return the results of a server on a scenario, by round."""
        return {
            sample.round: sample.result
            for sample in self.samples
            if sample.scenario == scenario and sample.server == server and sample.result
        }

    def errors(self, scenario: str, server: str) -> list[str]:
        return [
            sample.error
            for sample in self.samples
            if sample.scenario == scenario and sample.server == server and sample.error
        ]

    def figure(self, scenario: str, server: str, key: str) -> Figure | None:
        values = (getattr(result, key) for result in self.results(scenario, server).values())
        return Figure.of(value for value in values if value is not None)

    def extras(self, scenario: str, server: str) -> dict[str, Figure]:
        results = self.results(scenario, server).values()
        figures = {key: Figure.of(_each(results, key)) for result in results for key in result.extra}
        return {key: figure for key, figure in figures.items() if figure}

    def ratio(self, scenario: str, server: str, reference: str, key: str) -> Figure | None:
        """Return the figure of the reference divided by that of a server. Divided within each round."""
        upper, lower = self.results(scenario, reference), self.results(scenario, server)
        pairs = [(getattr(upper[n], key), getattr(lower[n], key)) for n in upper.keys() & lower.keys()]
        return Figure.of(ours / other for ours, other in pairs if ours is not None and other)

    def write(self, file: Path) -> None:
        """Write the facts, the samples and the medians, with one sample on each line."""
        samples = ",\n".join(json.dumps(asdict(sample)) for sample in self.samples)
        about, summary = json.dumps(self.about, indent=1), json.dumps(self._summary())
        file.write_text(f'{{"about": {about},\n"samples": [\n{samples}\n],\n"summary": {summary}}}\n')

    @classmethod
    def read(cls, file: Path) -> Run:
        data = json.loads(file.read_text())
        samples = [
            Sample(**{**sample, "result": sample["result"] and Result(**sample["result"])})
            for sample in data["samples"]
        ]
        return cls(data["about"], samples)

    def _summary(self) -> dict[str, dict[str, dict[str, Figure | None]]]:
        """Return all figures, for programs that read the JSON file."""
        keys = ("value", "p50_ms", "p99_ms", "cpu_us")
        return {
            scenario: {
                server: {key: self.figure(scenario, server, key) for key in keys}
                for server in self.servers(scenario)
            }
            for scenario in self.scenarios()
        }


def _each(results: Iterable[Result], key: str) -> Iterator[float]:
    return (result.extra[key] for result in results if key in result.extra)
