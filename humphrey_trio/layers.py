"""Layers: functions around the handlers of an app, and those that are ready to use."""

from ._layers._compression import compression as compression
from ._layers._cors import Cors as Cors
from ._layers._cors import cors as cors
from ._layers._json_errors import json_errors as json_errors
from ._layers._layer import CallNext as CallNext
from ._layers._layer import Layer as Layer
from ._layers._origin_guard import cross_origin_guard as cross_origin_guard

__all__ = [
    "CallNext",
    "Cors",
    "Layer",
    "compression",
    "cors",
    "cross_origin_guard",
    "json_errors",
]
