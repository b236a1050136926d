"""The arguments of the command line: their syntax, and the checks that need nothing but the text."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from .._http._address import MAX_PORT, UNIX_PREFIX, Address, split_port

PROGRAM = "python -m humphrey_trio"
#: The address without ``--bind`` and without sockets of systemd.
DEFAULT_BIND = "127.0.0.1:8080"
#: Before the number or the name of an inherited file descriptor.
FD_PREFIX = "fd:"

_DESCRIPTION = "Serve an App, an AsyncWebsocketApp or an ASGI app over HTTP/1.1 and WebSockets."
_EPILOG = """\
The first SIGTERM or Ctrl-C shuts the server down gracefully, the second one ends it at once.

exit status:
  0         the server has shut down gracefully; --check has no warnings
  1         an address cannot be listened on, or the application has failed; --check has warnings
  2         the command line is wrong, or the application cannot be loaded
  130, 143  Ctrl-C or SIGTERM has ended the server at once
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The arguments of one command.

    Attributes:
        target: what is served, ``module:name``.
        binds: the texts of ``--bind``; empty for the sockets of systemd, or the default address.
        tls_cert: the file of the certificate; None for that of the app, if it has one.
        tls_key: the file of its key; None if the certificate file contains it.
        unix_mode: the mode of Unix sockets; None for that of the umask.
        access_log: whether each response is logged.
        check: whether to print a report, and not to serve.
        reload: whether to restart when the source changes.
    """

    target: str
    binds: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    unix_mode: int | None = None
    access_log: bool = False
    check: bool = False
    reload: bool = False


def parse_arguments(arguments: Sequence[str] | None = None) -> Options:
    """Parse the arguments.

    Args:
        arguments: the arguments; None for those of the process.

    Raises:
        SystemExit: with 2, after a message, if they are wrong; with 0 after the text of ``--help``.
    """
    parser = new_parser()
    found = parser.parse_args(arguments)
    if found.foreign is not None:
        parser.error("--host and --port are one option here: write --bind 127.0.0.1:8080")
    if found.tls_key is not None and found.tls_cert is None:
        parser.error("--tls-key belongs to a certificate: pass --tls-cert as well")
    if found.unix_mode is not None and not any(bind.startswith(UNIX_PREFIX) for bind in found.bind):
        parser.error("--unix-mode is the mode of Unix sockets: pass --bind unix:/path as well")
    if found.check and found.reload:
        parser.error("--check does not serve, so there is nothing to reload: leave one of them out")
    return Options(
        target=found.target,
        binds=tuple(found.bind),
        tls_cert=found.tls_cert,
        tls_key=found.tls_key,
        unix_mode=found.unix_mode,
        access_log=found.access_log,
        check=found.check,
        reload=found.reload,
    )


def new_parser() -> argparse.ArgumentParser:
    """Create the parser. Its destinations are the attributes of ``Options``."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "target",
        metavar="module:app",
        help="a module and the name in it of the app, or of a function without parameters that returns it",
    )
    parser.add_argument(
        "--bind",
        metavar="ADDRESS",
        action="append",
        default=[],
        type=_bind,
        help=f"host:port, [IPv6]:port, unix:/path, fd:3 or fd:NAME; may be repeated (default: {DEFAULT_BIND})",
    )
    parser.add_argument("--host", "--port", dest="foreign", help=argparse.SUPPRESS)  # of other servers
    parser.add_argument("--tls-cert", metavar="FILE", help="serve HTTPS with this certificate and chain (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key (PEM), if it is not in the same file")
    parser.add_argument("--unix-mode", metavar="MODE", type=_mode, help="mode of Unix sockets, such as 660")
    parser.add_argument("--access-log", action="store_true", help="log each response")
    parser.add_argument(
        "--check", action="store_true", help="print the limits in force and what does not fit, and do not serve"
    )
    parser.add_argument(
        "--reload",
        action="store_true",
        help="for development: restart when a Python file below this directory changes",
    )
    return parser


def arguments_of_child(options: Options) -> list[str]:
    """Return the arguments of a server process that serves the same as ``options``, on sockets that are open."""
    arguments = [options.target]
    if options.tls_cert is not None:
        arguments += ["--tls-cert", options.tls_cert]
    if options.tls_key is not None:
        arguments += ["--tls-key", options.tls_key]
    if options.access_log:
        arguments.append("--access-log")
    return arguments


def _bind(text: str) -> str:
    if text.startswith(FD_PREFIX):
        if len(text) > len(FD_PREFIX):
            return text
        raise argparse.ArgumentTypeError("'fd:' needs the number or the name of a descriptor, such as fd:3")
    try:
        Address.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address: {_advice(text)}") from None
    return text


def _advice(text: str) -> str:
    _, port = split_port(text)
    if port.isascii() and port.isdigit() and int(port) > MAX_PORT:
        return f"a port is at most {MAX_PORT}"
    return "write 127.0.0.1:8080, [::1]:8080, unix:/path or fd:3"


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not a mode: write three octal digits, such as 660")
    return mode
