"""The monitor of an application: events of its server, sent into a channel."""

from ._app._monitor import MonitorConfig as MonitorConfig
from ._http._events import Event as Event
from ._http._events import EventLevel as EventLevel
from ._http._events import EventType as EventType

__all__ = ["Event", "EventLevel", "EventType", "MonitorConfig"]
