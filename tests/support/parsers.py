"""Tests that run with each parser of request heads."""

from __future__ import annotations

import pytest

from humphrey_trio._server._fast_head import parse_fast
from humphrey_trio._server._h11_head import parse_h11
from humphrey_trio._server._request_reader import RequestReader
from humphrey_trio.http import App

_PARSERS = {"h11": parse_h11, "fast": parse_fast}


@pytest.fixture(params=_PARSERS)
def each_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make one of the parsers the default of ``App`` and of ``RequestReader``. Returns its name."""
    name: str = request.param
    monkeypatch.setitem(App.__init__.__kwdefaults__, "parser", name)
    monkeypatch.setitem(RequestReader.__init__.__kwdefaults__, "parse", _PARSERS[name])
    return name
