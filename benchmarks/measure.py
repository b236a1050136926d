"""Starts and ends processes on their cores, and reads their CPU time and memory (Linux only).

The server and the load generator run on one core each. Both set an alarm, so that they end even if this process
was killed.
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
from benchmarks.catalogue import PROJECT
from benchmarks.scenarios import Work

SERVER_CORE, LOAD_CORE = 0, 1
START_TIMEOUT = 15.0
LONGEST_CELL = 180
ATTEMPTS = 3
DISTURBED = 0.05
TICKS = os.sysconf("SC_CLK_TCK")


class CellError(Exception):
    """One measurement has failed. Others may succeed."""


class StartError(CellError):
    """The server did not start."""


@dataclass(frozen=True)
class Job:
    """The input of the load generator.

    Attributes:
        work: what to do.
        port: the port of the server.
        pids: the processes of the server.
        seconds: the measured time.
        warmup: the time before it.
    """

    work: Work
    port: int
    pids: list[int]
    seconds: float
    warmup: float


@dataclass
class Result:
    """The output of the load generator.

    Attributes:
        value: the figure of the scenario, in its unit.
        p50_ms, p99_ms, slowest_ms: the latency.
        cpu_us: the CPU time of the server for each operation.
        busy: the share of its core that the server used.
        disturbed: the share of a core that other processes or virtual machines took from the server or from the
            load generator.
        extra: further figures, by title.
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
    """Return the CPU time of processes, from their CPU clocks. These are more precise than /proc/PID/stat."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def resident_bytes(pids: list[int]) -> int:
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in pids)


def peak_bytes(pids: list[int]) -> int:
    """Return the peak of the resident memory of processes, since their start or since `reset_peak`."""
    return sum(
        int(line.split()[1]) * 1024
        for pid in pids
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )


def reset_peak(pids: list[int]) -> None:
    """Set the peak to the current resident memory (proc(5), clear_refs). Does nothing without permission."""
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def open_files(pids: list[int]) -> int:
    """Return the number of open files of processes, including the open connections of a server."""
    return sum(1 for pid in pids for _ in Path(f"/proc/{pid}/fd").iterdir())


def waiting_seconds(pids: list[int]) -> float:
    """Return the time in which processes were ready to run but their core ran others."""
    return sum(
        int(task.read_text().split()[1]) / 1e9
        for pid in pids
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


def stolen_seconds(core: int) -> float:
    """Return the time in which the hypervisor used a core for other virtual machines."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            return int(line.split()[8]) / TICKS
    return 0.0


def process_tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


class Window:
    """The measured time, and the CPU time that the server used and that others took in it.

    Args:
        pids: the processes of the server.
        shared: whether another process of the benchmark shares the core of this one. Then the time that this one
            waits for its core does not count as a disturbance.
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
    """Raise the limit of open files for this process and its children to the maximum. Returns the maximum."""
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
def running_server(
    module: str, tls: bool = False, files: Path | None = None, *, app: str = "", root: Path = PROJECT
) -> Iterator[tuple[int, list[int]]]:
    """Start a server, yield its port and its processes, and end it.

    Args:
        module: the program of the server.
        tls: whether it gets a certificate.
        files: the folder that it serves below ``/files/``, if any.
        app: the ASGI app that it serves, if any.
        root: the folder from which it imports this library and the benchmarks.
    """
    port = free_port()
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as folder:
        arguments = [f"--folder={files}"] if files else []
        arguments += [f"--app={app}"] if app else []
        if tls:
            arguments += map("--{}={}".format, ("cert", "key"), certificate.make(Path(folder)))
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.servers.{module}", str(port), *arguments],
            cwd=root,
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
            output = log.read()[-600:].decode(errors="replace").strip()
            raise type(failure)(f"{failure}: {output}" if output else str(failure)) from failure
        finally:
            _end(process, pids)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StartError(f"the server ended during its start, with exit status {process.returncode}")
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
    """Run the load generator, or another program that reads a job and prints a result."""
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
        raise CellError(errors.strip()[-300:] or f"the load generator ended with exit status {process.returncode}")
    return Result(**json.loads(out))


def measure(
    module: str,
    run: Callable[[int, list[int]], Result],
    tolerated: float = DISTURBED,
    *,
    tls: bool = False,
    files: Path | None = None,
    app: str = "",
    most_attempts: int = ATTEMPTS,
) -> Result:
    """Measure a server. If the measurement was disturbed, repeat it.

    Args:
        module: the program of the server.
        run: measures the server with this port and these processes.
        tolerated: the share of a core that other processes may use.
        tls: whether the server gets a certificate.
        files: the folder that the server serves, if any.
        app: the ASGI app that the server serves, if any.
        most_attempts: the number of measurements, including the first one.

    Returns:
        The result with the least disturbance.
    """
    attempts: list[Result] = []
    while len(attempts) < most_attempts:
        with running_server(module, tls, files, app=app) as server:
            attempts.append(run(*server))
        if (attempts[-1].disturbed or 0.0) < tolerated:
            return attempts[-1]
    return min(attempts, key=lambda result: result.disturbed or 0.0)
