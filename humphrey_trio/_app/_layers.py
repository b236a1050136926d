"""The chain of layers around the answer to a request.

The chain knows no routes: the innermost answer is an argument. It never changes a response, and it handles no
exception itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeAlias

from .._http._request import Request
from .._http._response import Response
from .._layers._layer import CallNext, Layer
from .._naming import qualified_name
from .._type_variables import State
from ._handler_checks import check_layer
from ._layer_paths import LayerPath, readings_of

#: Turns an exception of a layer into a response: ``await answer_failure(request, exception, layer)``. It is called
#: in the except clause, and re-raises what is not a failure, such as a cancellation.
AnswerFailure: TypeAlias = Callable[[Request, BaseException, object], Awaitable[Response]]


class LayerEntry(Generic[State]):
    """A layer of an app, and the paths for which it is called.

    Args:
        pattern: the paths, as for a route. One that can be read as such a path matches, too.
        layer: the layer.

    Raises:
        TypeError: the layer cannot be called, or the pattern is not a str.
        ValueError: the pattern is malformed, or could never match.
    """

    __slots__ = ("layer", "matches")

    def __init__(self, pattern: str, layer: Layer[State]) -> None:
        _check(pattern, layer)
        self.layer = layer
        self.matches: Callable[[str, Sequence[str]], bool] = (
            _always if pattern == "*" else LayerPath(pattern).matches
        )


class LayerChain(Generic[State]):
    """Layers around the answers to requests, from the outermost to the innermost.

    Args:
        layers: the first is the outermost.
        answer_failure: called with the exception of a layer. The layers around it see the result as the response
            of ``call_next``, so they apply to error responses, too.
    """

    __slots__ = ("_answer_failure", "_layers")

    def __init__(self, layers: Sequence[LayerEntry[State]], answer_failure: AnswerFailure) -> None:
        self._layers = layers
        self._answer_failure = answer_failure

    async def run(self, request: Request, state: State, endpoint: CallNext) -> Response:
        """Call the layers whose patterns match the path of the request, and the innermost answer in them.

        Args:
            request: the request. Its path decides, also if a layer passes another request on.
            state: the second argument of the layers.
            endpoint: the innermost answer. It gets the request that the last layer passed on. Its exceptions pass
                the layers.
        """
        path = request.path
        readings = readings_of(path)
        matching = [entry.layer for entry in self._layers if entry.matches(path, readings)]
        return await _Run(matching, state, endpoint, self._answer_failure).call(0, request)


class _Run(Generic[State]):
    """One request on its way through the layers that match it."""

    __slots__ = ("_answer_failure", "_endpoint", "_layers", "_state")

    def __init__(
        self,
        layers: Sequence[Layer[State]],
        state: State,
        endpoint: CallNext,
        answer_failure: AnswerFailure,
    ) -> None:
        self._layers = layers
        self._state = state
        self._endpoint = endpoint
        self._answer_failure = answer_failure

    async def call(self, position: int, request: Request) -> Response:
        """Call the layer at a position, or the innermost answer after the last one."""
        if position == len(self._layers):
            return await self._endpoint(request)
        layer = self._layers[position]
        step = _Step(self, position + 1, layer)
        try:
            return await _settle(layer, layer(request, self._state, step))
        except BaseException as exc:
            return await self._answer_failure(request, exc, layer)
        finally:
            step.end()


class _Step(Generic[State]):
    """The ``call_next`` of one layer, for one request.

    It can be called once. A second call would run the handler again: with the same body, which may have been read
    already, and for an upgrade that was decided already.
    """

    __slots__ = ("_layer", "_misuse", "_position", "_run")

    def __init__(self, run: _Run[State], position: int, layer: Layer[State]) -> None:
        self._run = run
        self._position = position
        self._layer = layer
        self._misuse = ""

    async def __call__(self, request: Request | None = None, *others: object) -> Response:
        if others or request is None:
            raise TypeError(
                f"the layer {qualified_name(self._layer)} must call call_next with the request alone: write"
                " await call_next(request)"
            )
        if self._misuse:
            raise RuntimeError(f"the layer {qualified_name(self._layer)} called call_next {self._misuse}")
        if not isinstance(request, Request):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"the layer {qualified_name(self._layer)} called call_next with {type(request).__name__}:"
                " pass the request, or a changed copy of it"
            )
        self._misuse = "twice: keep its response, the handler runs once for a request"
        return await self._run.call(self._position, request)

    def end(self) -> None:
        """Refuse later calls, because the layer has returned."""
        self._misuse = "after it had returned: await call_next inside of the layer"


async def _settle(layer: Layer[Any], answer: object) -> Response:
    """Return the response of a layer.

    Raises:
        TypeError: the layer is not async, or returned something else. The message names the layer.
    """
    if not inspect.isawaitable(answer):
        raise TypeError(f"the layer {qualified_name(layer)} must be an async function")
    response = await answer
    if not isinstance(response, Response):
        raise TypeError(
            f"the layer {qualified_name(layer)} must return a Response, not {type(response).__name__}:"
            " return the result of 'await call_next(request)', or a Response of its own"
        )
    return response


def _check(pattern: str, layer: Layer[Any]) -> None:
    check_layer(layer)
    if not isinstance(pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the path of a layer is a pattern such as '/api/*', not {type(pattern).__name__}")


def _always(path: str, readings: Sequence[str]) -> bool:
    return True
