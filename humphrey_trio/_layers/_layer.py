"""What a layer is: the types of layers and of the function that calls the next one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from .._http._request import Request
from .._http._response import Response
from .._type_variables import State

#: Calls the next layer, or the handler after the last one: ``response = await call_next(request)``. A layer may
#: call it once, until the layer returns.
CallNext: TypeAlias = Callable[[Request], Awaitable[Response]]

#: A layer: ``async def layer(request, state, call_next) -> Response``.
Layer: TypeAlias = Callable[[Request, State, CallNext], Awaitable[Response]]
