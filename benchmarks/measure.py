"""Starts and ends processes on their cores and tells what CPU and memory they use (Linux only).

Server and load generator run on a core each. Both carry an alarm clock, so that they end even if nobody is
left to end them.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import certificate
from benchmarks.scenarios import Work

PROJECT = Path(__file__).resolve().parent.parent
SERVER_CORE, LOAD_CORE = 0, 1
START_TIMEOUT = 15.0
LONGEST_CELL = 180
ATTEMPTS = 3
DISTURBED = 0.05
TICKS = os.sysconf("SC_CLK_TCK")


class CellError(Exception):
    """One measurement could not be made; the others can."""


class StartError(CellError):
    """The server did not come up."""


@dataclass(frozen=True)
class Job:
    """What the load generator is told on its standard input."""

    work: Work
    port: int
    pids: list[int]
    seconds: float
    warmup: float


@dataclass
class Result:
    """What it answers.

    `busy` is the share of its core that the server used; `disturbed` is the share of a core that other
    processes, or other virtual machines, took away from the server or from the load generator.
    """

    value: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    slowest_ms: float | None = None
    cpu_us: float | None = None
    busy: float | None = None
    disturbed: float | None = None
    extra: dict[str, float] = field(default_factory=dict)


def cpu_seconds(pids: list[int]) -> float:
    """The CPU time of these processes: the kernel's CPU clock of each, which is finer than /proc/PID/stat."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def resident_bytes(pids: list[int]) -> int:
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in pids)


def peak_bytes(pids: list[int]) -> int:
    """The most that each of these processes has had resident, so far or since `forget_peak`."""
    return sum(
        int(line.split()[1]) * 1024
        for pid in pids
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )


def forget_peak(pids: list[int]) -> None:
    """Let the peak be what is resident now (proc(5), clear_refs); where that is not allowed it stays."""
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def waiting_seconds(pids: list[int]) -> float:
    """How long these processes have been ready to run while their core ran others."""
    return sum(
        int(task.read_text().split()[1]) / 1e9
        for pid in pids
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


def stolen_seconds(core: int) -> float:
    """How long the hypervisor has kept this core for other virtual machines."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            return int(line.split()[8]) / TICKS
    return 0.0


def process_tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


class Window:
    """The measured time: what passed on the clock and on the server's CPU clock, and what others took.

    Args:
        pids: the server's processes.
        shared: whether processes of ours share this one's core, so that its waiting says nothing of others.
    """

    def __init__(self, pids: list[int], shared: bool = False) -> None:
        self._pids = pids
        self._shared = shared
        self._lost = self._lost_seconds()
        self._cpu = cpu_seconds(pids)
        self.started = time.perf_counter()

    def close(self) -> None:
        self.elapsed = time.perf_counter() - self.started
        self.cpu = cpu_seconds(self._pids) - self._cpu
        self.busy = self.cpu / self.elapsed
        lost = zip(self._lost, self._lost_seconds(), strict=True)
        self.disturbed = max(after - before for before, after in lost) / self.elapsed

    def _lost_seconds(self) -> tuple[float, float]:
        own = [] if self._shared else [os.getpid()]
        return (
            waiting_seconds(self._pids) + stolen_seconds(SERVER_CORE),
            waiting_seconds(own) + stolen_seconds(LOAD_CORE),
        )


def raise_file_limit() -> int:
    """Allow this process and its children as many open files as possible, and tell how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _on_core(core: int) -> Callable[[], None]:
    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        signal.alarm(LONGEST_CELL + 20)

    return prepare


@contextlib.contextmanager
def running_server(module: str, tls: bool = False) -> Iterator[tuple[int, list[int]]]:
    """Start a server, give its port and its processes, and end it."""
    port = free_port()
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as folder:
        files = certificate.make(Path(folder)) if tls else ()
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.servers.{module}", str(port), *map(str, files)],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_on_core(SERVER_CORE),
        )
        pids = [process.pid]
        try:
            _wait_until_listening(process, port)
            pids = process_tree(process.pid)
            yield port, pids
        except CellError as failure:
            log.seek(0)
            said = log.read()[-600:].decode(errors="replace").strip()
            raise type(failure)(f"{failure}: {said}" if said else str(failure)) from failure
        finally:
            _end(process, pids)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StartError(f"the server ended at its start with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise StartError(f"the server did not listen within {START_TIMEOUT:.0f} s")


def _end(process: subprocess.Popen[bytes], pids: list[int]) -> None:
    for pid in pids[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()


def run_load(job: Job, program: str = "benchmarks.load") -> Result:
    """Run the load generator, or another program that is told a job and answers a result."""
    process = subprocess.Popen(
        [sys.executable, "-m", program],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_on_core(LOAD_CORE),
    )
    try:
        out, errors = process.communicate(json.dumps(asdict(job)), timeout=LONGEST_CELL)
    except subprocess.TimeoutExpired:
        raise CellError(f"not finished after {LONGEST_CELL} s") from None
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise CellError(errors.strip()[-300:] or f"the load generator ended with {process.returncode}")
    return Result(**json.loads(out))


def measure(
    module: str, run: Callable[[int, list[int]], Result], tolerated: float = DISTURBED, *, tls: bool = False
) -> Result:
    """Measure one server, again if it was disturbed; the quietest attempt counts.

    Args:
        module: the server's program.
        run: measures the server that has this port and these processes.
        tolerated: the share of a core that others may take.
        tls: whether the server is given a certificate.
    """
    attempts: list[Result] = []
    while len(attempts) < ATTEMPTS:
        with running_server(module, tls) as server:
            attempts.append(run(*server))
        if (attempts[-1].disturbed or 0.0) < tolerated:
            return attempts[-1]
    return min(attempts, key=lambda result: result.disturbed or 0.0)
