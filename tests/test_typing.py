"""Two type checkers read the package, the examples, the first program and typing_checks.py."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import ROOT, first_program

CHECKED = ("humphrey_trio", "examples", "tests/typing_checks.py")


@pytest.fixture
def checked(tmp_path: Path) -> list[str]:
    """What is checked: files and folders, the README's first program among them."""
    program = tmp_path / "first_program.py"
    program.write_text(first_program())
    return [*CHECKED, str(program)]


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, text=True, capture_output=True, check=False
    )


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy(checked: list[str]) -> None:
    """``mypy --strict`` finds nothing, but every error that is expected."""
    run = run_module("mypy", "--strict", *checked)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed")
def test_pyright(checked: list[str]) -> None:
    """pyright, as strict as it can be, finds nothing, but every error that is expected."""
    version = run_module("pyright", "--version")
    if version.returncode:
        pytest.skip(f"pyright cannot begin, for it needs Node.js and its npm package: {version.stderr[-500:]}")
    run = run_module("pyright", "--pythonpath", sys.executable, *checked)
    assert run.returncode == 0, run.stdout + run.stderr
