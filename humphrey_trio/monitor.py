"""What an application does: events of its server, sent into a channel, and a watchdog of the event loop."""

from ._app._monitor import MonitorConfig as MonitorConfig
from ._http._events import Event as Event
from ._http._events import EventLevel as EventLevel
from ._http._events import EventType as EventType
from ._watchdog._watchdog import watch_event_loop as watch_event_loop

__all__ = ["Event", "EventLevel", "EventType", "MonitorConfig", "watch_event_loop"]
