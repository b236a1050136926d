"""Functions with the wrong parameters are refused when they are added to an app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from humphrey_trio import App, Request, Response
from humphrey_trio.handlers import serve_dir
from humphrey_trio.layers import compression


def without(request: Request) -> Response:
    return Response(200)


async def with_one_more(request: Request, state: None, more: int) -> Response:
    return Response(200)


WRONG: list[tuple[Callable[[App[Any]], object], str]] = [
    (lambda app: app.with_route("/", without), r"test_signatures\.without, is called with \(request, state\)"),  # type: ignore[arg-type]
    (lambda app: app.with_route("/", with_one_more), r"is called with \(request, state\): missing a required"),  # type: ignore[arg-type]
    (lambda app: app.with_route("/", serve_dir(".")), r"is called with \(request, state\): missing a required"),  # type: ignore[arg-type]
    (lambda app: app.with_stateless_route("/", with_one_more), r"is called with \(request\): missing"),  # type: ignore[arg-type]
    (lambda app: app.with_path_aware_route("/", without), r"is called with \(request, state, pattern\): too many"),  # type: ignore[arg-type]
    (lambda app: app.with_websocket_route("/", without), r"is called with \(upgrade, state\): too many"),  # type: ignore[arg-type]
    (lambda app: app.with_layer(compression), r"compression makes a layer: write with_layer\(compression\("),  # type: ignore[arg-type]
    (lambda app: app.with_layer(without), r"is called with \(request, state, call_next\): too many"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("add", "message"), WRONG)
def test_wrong_parameters_are_refused(add: Callable[[App[Any]], object], message: str) -> None:
    """The error names the function and the arguments with which it is called."""
    with pytest.raises(TypeError, match=message):
        add(App())


@pytest.mark.parametrize("handler", [print, lambda *arguments: Response(200), Response], ids=repr)
def test_other_callables_are_accepted(handler: Any) -> None:
    """Functions with any parameters, classes, and functions whose signature is not known are accepted."""
    App().with_route("/", handler)


@pytest.mark.parametrize("name", ["limits", "timeouts"])
def test_settings_of_another_type_are_refused(name: str) -> None:
    """Limits and timeouts of another type are an error that says what to write."""
    settings: dict[str, Any] = {name: {"body": 1}}
    with pytest.raises(TypeError, match=rf"{name} is a .*, not dict: write {name}="):
        App(**settings)
