"""The chain of layers: order, paths, what a layer may do with ``call_next``, and what becomes of errors."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from humphrey_trio._app._layers import LayerChain, LayerEntry
from humphrey_trio.http import Headers, Request, Response
from humphrey_trio.layers import CallNext, Cors, Layer, cors

State = list[str]


async def endpoint(request: Request) -> Response:
    return Response(200, f"{request.method} {request.path}", request.headers)


async def answer_failure(request: Request, error: BaseException, layer: object) -> Response:
    if not isinstance(error, Exception):
        raise error
    return Response(500, f"{request.path}: {type(error).__name__}: {error}")


def chain_of(*layers: Layer[Any], path: str = "*") -> LayerChain[Any]:
    return LayerChain([LayerEntry(path, layer) for layer in layers], answer_failure)


def noting(name: str) -> Layer[State]:
    """A layer that notes its name in the state before and after the next one."""

    async def layer(request: Request, state: State, call_next: CallNext) -> Response:
        state.append(f"{name} begins")
        response = await call_next(request)
        state.append(f"{name} ends")
        return response.with_header("Seen-By", name)

    return layer


async def test_the_first_is_the_outermost() -> None:
    """The first layer begins first and ends last, with the state and the response of the next."""
    state: State = []
    response = await chain_of(noting("a"), noting("b")).run(Request(), state, endpoint)
    assert state == ["a begins", "b begins", "b ends", "a ends"]
    assert response.text == "GET /"
    assert response.headers.get_all("Seen-By") == ("b", "a")


async def test_a_layer_may_answer_itself() -> None:
    """A layer that does not call the next one answers, and the layers around it see that."""

    async def closed(request: Request, state: State, call_next: CallNext) -> Response:
        return Response(503, "closed")

    state: State = []
    response = await chain_of(noting("outer"), closed, noting("inner")).run(Request(), state, endpoint)
    assert (response.status, response.headers["Seen-By"]) == (503, "outer")
    assert state == ["outer begins", "outer ends"]


async def test_a_layer_may_change_the_request() -> None:
    """The next layer and the handler get the request that a layer passes on."""

    async def naming(request: Request, state: State, call_next: CallNext) -> Response:
        return await call_next(request.replace(headers=request.headers.with_header("User", "ann")))

    response = await chain_of(naming, noting("inner")).run(Request(), [], endpoint)
    assert response.headers == Headers([("User", "ann"), ("Seen-By", "inner")])


PATHS = [
    ("*", "/", True),
    ("*", "*", True),
    ("/api/*", "/api/items", True),
    ("/api/*", "/api/", True),
    ("/api/*", "/api", False),
    ("/api/*", "/other", False),
    ("/api", "/api", True),
    ("/api", "/API", False),
    ("*.json", "/items.json", True),
]


@pytest.mark.parametrize(("pattern", "path", "matches"), PATHS)
async def test_paths(pattern: str, path: str, matches: bool) -> None:
    """A layer whose pattern does not match the path is skipped."""
    response = await chain_of(noting("a"), path=pattern).run(Request(path=path), [], endpoint)
    assert ("Seen-By" in response.headers) == matches
    assert response.text == f"GET {path}"


async def test_the_path_of_the_client_decides() -> None:
    """A layer that passes on another path does not change which layers match."""

    async def rewriting(request: Request, state: State, call_next: CallNext) -> Response:
        return await call_next(request.replace(path="/b"))

    layers = [LayerEntry(*entry) for entry in (("*", rewriting), ("/a", noting("a")), ("/b", noting("b")))]
    response = await LayerChain(layers, answer_failure).run(Request(path="/a"), [], endpoint)
    assert (response.text, response.headers.get_all("Seen-By")) == ("GET /b", ("a",))


async def test_a_failure_becomes_the_response_for_the_layers_around_it() -> None:
    """The exception of a layer is answered where it left the layer, so outer layers see a response."""

    async def failing(request: Request, state: State, call_next: CallNext) -> Response:
        raise ValueError("oops")

    response = await chain_of(noting("outer"), failing).run(Request(path="/x"), [], endpoint)
    assert (response.status, response.text) == (500, "/x: ValueError: oops")
    assert response.headers["Seen-By"] == "outer"


async def test_an_exception_of_the_innermost_answer_passes_the_layers() -> None:
    """A layer can catch what the innermost answer raises; else it is the failure of that layer."""

    async def broken(request: Request) -> Response:
        raise LookupError("nothing")

    async def catching(request: Request, state: State, call_next: CallNext) -> Response:
        try:
            return await call_next(request)
        except LookupError:
            return Response(404, "caught")

    assert (await chain_of(catching).run(Request(), [], broken)).text == "caught"
    assert (await chain_of(noting("a")).run(Request(), [], broken)).text == "/: LookupError: nothing"


async def test_cancellation_passes_all_layers() -> None:
    """A cancelled request ends in the innermost answer, and is not answered."""
    state: State = []
    with trio.CancelScope() as scope:

        async def cancelled(request: Request) -> Response:
            scope.cancel()
            await trio.sleep_forever()
            raise AssertionError

        await chain_of(noting("a"), noting("b")).run(Request(), state, cancelled)
    assert scope.cancelled_caught
    assert state == ["a begins", "b begins"]


# ------------------------------------------------------------------------------------- what is refused


async def twice(request: Request, state: State, call_next: CallNext) -> Response:
    await call_next(request)
    return await call_next(request)


async def wrong_request(request: Request, state: State, call_next: CallNext) -> Response:
    return await call_next("/")  # type: ignore[arg-type]


async def nothing(request: Request, state: State, call_next: CallNext) -> Response:
    await call_next(request)
    return None  # type: ignore[return-value]


class Plain:
    def __repr__(self) -> str:
        return "Plain()"

    def __call__(self, request: Request, state: State, call_next: CallNext) -> Any:
        return Response(200)


async def text(prefix: str, request: Request, state: State, call_next: CallNext) -> Any:
    return prefix


class Silent:
    def __repr__(self) -> str:
        return "Silent()"

    async def __call__(self, request: Request, state: State, call_next: CallNext) -> Any:
        return None


MISTAKES: list[tuple[Any, str]] = [
    (twice, f"RuntimeError: the layer {__name__}.twice called call_next twice: keep its response"),
    (
        wrong_request,
        f"TypeError: the layer {__name__}.wrong_request called call_next with str: pass the request",
    ),
    (
        nothing,
        f"TypeError: the layer {__name__}.nothing must return a Response, not NoneType: return the result of",
    ),
    (Plain(), "TypeError: the layer Plain() must be an async function"),
    (Silent(), "TypeError: the layer Silent() must return a Response, not NoneType"),
    (functools.partial(text, "a"), f"TypeError: the layer {__name__}.text must return a Response, not str"),
]


@pytest.mark.parametrize(("layer", "message"), MISTAKES)
async def test_mistakes_name_the_layer(layer: Any, message: str) -> None:
    """A layer that breaks a rule fails, and the message names it and says what to do."""
    response = await chain_of(layer).run(Request(), [], endpoint)
    assert response.status == 500
    assert response.text.startswith(f"/: {message}")


async def test_call_next_ends_with_its_layer() -> None:
    """A layer that keeps ``call_next`` cannot call it after it has returned."""
    kept: list[CallNext] = []

    async def keeping(request: Request, state: State, call_next: CallNext) -> Response:
        kept.append(call_next)
        return Response(200)

    await chain_of(keeping).run(Request(), [], endpoint)
    with pytest.raises(
        RuntimeError, match="keeping called call_next after it had returned: await call_next inside"
    ):
        await kept[0](Request())


@pytest.mark.parametrize(
    ("layer", "pattern", "message"),
    [
        (None, "*", r"None is not a layer: write an async function, async def layer\(request, state, call_next\)"),
        (noting("a"), None, r"the path of a layer is a pattern such as '/api/\*', not NoneType"),
    ],
)
def test_something_else_than_a_layer(layer: Any, pattern: Any, message: str) -> None:
    """What is not a layer or not a path is refused when it is added."""
    with pytest.raises(TypeError, match=message):
        LayerEntry(pattern, layer)


async def test_error_responses_get_the_fields_of_cors() -> None:
    """A failure inside of a layer of CORS is readable for the page."""

    async def failing(request: Request, state: State, call_next: CallNext) -> Response:
        raise ValueError("oops")

    async def missing(request: Request) -> Response:
        return Response(404)

    outer = cors(Cors.wildcard())
    inner: list[tuple[Layer[Any], Callable[[Request], Awaitable[Response]], int]] = [
        (failing, endpoint, 500),
        (noting("inner"), missing, 404),
    ]
    for layer, answer, status in inner:
        response = await chain_of(outer, layer).run(Request(headers=Headers({"Origin": "https://a"})), [], answer)
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (status, "*")
