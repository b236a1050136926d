"""``--reload``: open the sockets, and supervise a server process with the same options.

It never imports the application, because the import may fail.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

from .._app._app import App
from .._server._open_listeners import open_listeners
from ._arguments import Options, arguments_of_child
from ._binds import errors_of_listening, listen_targets
from ._load import split_target
from ._reload import supervise
from ._serve import use_certificate


async def serve_reloading(options: Options) -> int:
    """Serve until a signal arrives, and restart the server when its source changes.

    An error that no change of the source can correct, such as a missing certificate, is raised at the start.

    Args:
        options: the arguments of the command line.

    Returns:
        The exit status.

    Raises:
        UsageError: an option cannot be used, or files cannot be watched.
        CommandError: an address cannot be listened on.
    """
    split_target(options.target)
    use_certificate(App(), options)
    command = [sys.executable, *_options_of_python(), "-m", "humphrey_trio", *arguments_of_child(options)]
    targets = listen_targets(options.binds, options.unix_mode, os.environ)
    with ExitStack() as opened:
        with errors_of_listening():
            # If it fails, it closes the sockets of systemd as well.
            listeners = await open_listeners(targets, options.unix_mode)
        for listener in listeners:
            opened.callback(listener.close)
        return await supervise(command, [listener.socket for listener in listeners])


def _options_of_python() -> list[str]:
    """Return the options of the interpreter, such as ``-X dev``, if it was started with ``-m``."""
    arguments = sys.orig_argv[1:]
    return arguments[: arguments.index("-m")] if "-m" in arguments else []
