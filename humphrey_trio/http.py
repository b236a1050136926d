"""HTTP: the application, requests and responses, limits and timeouts."""

from ._app._app import App as App
from ._app._app import ConnectionCondition as ConnectionCondition
from ._app._errors import ErrorHandler as ErrorHandler
from ._app._errors import default_error_handler as default_error_handler
from ._app._https_redirect import https_redirect as https_redirect
from ._app._routes import PathAwareRequestHandler as PathAwareRequestHandler
from ._app._routes import RequestHandler as RequestHandler
from ._app._routes import StatelessRequestHandler as StatelessRequestHandler
from ._app._routes import SubApp as SubApp
from ._asgi._call import AsgiApp as AsgiApp
from ._asgi._errors import LifespanError as LifespanError
from ._http._address import Address as Address
from ._http._body import BodyStream as BodyStream
from ._http._body import EventSender as EventSender
from ._http._body import Part as Part
from ._http._body import Write as Write
from ._http._cookies import Cookie as Cookie
from ._http._cookies import SameSite as SameSite
from ._http._cookies import SetCookie as SetCookie
from ._http._drain import Drain as Drain
from ._http._errors import HttpError as HttpError
from ._http._event_encoding import ServerSentEvent as ServerSentEvent
from ._http._fields import Fields as Fields
from ._http._form import Files as Files
from ._http._form import Form as Form
from ._http._form_parser import FormSettings as FormSettings
from ._http._headers import Headers as Headers
from ._http._limits import Limits as Limits
from ._http._limits import Timeouts as Timeouts
from ._http._method import Method as Method
from ._http._proxies import Forwarded as Forwarded
from ._http._proxies import TrustedProxies as TrustedProxies
from ._http._request import Request as Request
from ._http._request_key import RequestKey as RequestKey
from ._http._response import Response as Response
from ._http._statistics import HttpStatistics as HttpStatistics
from ._http._status import StatusCode as StatusCode
from ._http._tls_info import TlsInfo as TlsInfo
from ._http._uploaded_file import UploadedFile as UploadedFile
from ._http._when_left import WhenLeft as WhenLeft
from ._server._body_sender import open_body as open_body
from ._server._body_sender import read_body as read_body
from ._server._event_log import EventLog as EventLog
from ._server._given_listener import ListenTarget as ListenTarget
from ._until_signal import until_signal as until_signal

__all__ = [
    "Address",
    "App",
    "AsgiApp",
    "BodyStream",
    "ConnectionCondition",
    "Cookie",
    "Drain",
    "ErrorHandler",
    "EventLog",
    "EventSender",
    "Fields",
    "Files",
    "Form",
    "FormSettings",
    "Forwarded",
    "Headers",
    "HttpError",
    "HttpStatistics",
    "LifespanError",
    "Limits",
    "ListenTarget",
    "Method",
    "Part",
    "PathAwareRequestHandler",
    "Request",
    "RequestHandler",
    "RequestKey",
    "Response",
    "SameSite",
    "ServerSentEvent",
    "SetCookie",
    "StatelessRequestHandler",
    "StatusCode",
    "SubApp",
    "Timeouts",
    "TlsInfo",
    "TrustedProxies",
    "UploadedFile",
    "WhenLeft",
    "Write",
    "default_error_handler",
    "https_redirect",
    "open_body",
    "read_body",
    "until_signal",
]
