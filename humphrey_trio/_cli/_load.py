"""Load the object that ``module:name`` names. It never calls the object."""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterable
from types import ModuleType, TracebackType

from .._app._app import App
from .._websocket._app._async_app import AsyncWebsocketApp
from ._errors import UsageError

_FORM = "write the module and the name of the app in it, such as shop:app for 'app' in shop.py"
#: What tracebacks of the application do not show.
_HIDDEN = ("humphrey_trio._cli.", "importlib", "runpy")


def load(target: str) -> object:
    """Return the object that ``module:name`` names.

    The current directory is importable, as with ``python -m``.

    Args:
        target: ``module:name``. The name may have dots: ``shop:apps.main``.

    Raises:
        UsageError: the text has another form, there is no such module or name, or the module raises an exception,
            which is the cause of the error.
    """
    module_name, path = split_target(target)
    found: object = _import(module_name)
    done = module_name + ":"
    for name in path.split("."):
        if not hasattr(found, name):
            hint = _hidden_file(module_name, found) or _suggestion(name, found)
            raise UsageError(f"{done.rstrip(':.')} has no {name!r}{hint}")
        found = getattr(found, name)
        done += name + "."
    return found


def split_target(target: str) -> tuple[str, str]:
    """Return the module and the name in it of ``module:name``. Nothing is imported.

    Raises:
        UsageError: the text has another form.
    """
    module_name, colon, path = target.partition(":")
    hint = _hint(target)
    if hint or not (colon and module_name and path):
        raise UsageError(f"{target!r} is not an app: {hint or _FORM}")
    return module_name, path


def _hint(target: str) -> str | None:
    """Return how to write a file name as a module, or a module without a name; None for another text."""
    module, _, name = target.partition(":")
    if module.endswith(".py") or os.sep in module:
        directory, file = os.path.split(os.path.relpath(module.removesuffix(".py")))
        if directory.startswith(os.pardir):
            return f"write a module instead of a file: {file}:{name or 'app'}, in the directory {directory}"
        module = os.path.join(directory, file).replace(os.sep, ".")
        return f"write a module instead of a file: {module}:{name or 'app'}"
    if ":" not in target and all(part.isidentifier() for part in target.split(".")):
        return f"write the name of the app behind the module: {target}:app"
    return None


def _import(name: str) -> ModuleType:
    directory = os.getcwd()
    if directory not in sys.path and "" not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and f"{name}.".startswith(f"{exc.name}."):
            raise UsageError(_not_found(name, exc.name, directory)) from None
        raise _failed(name, exc) from exc
    except Exception as exc:
        raise _failed(name, exc) from exc


def _failed(name: str, exc: Exception) -> UsageError:
    exc.with_traceback(_visible(exc.__traceback__))
    return UsageError(f"the module {name!r} cannot be imported, because of the {type(exc).__name__} above")


def _visible(traceback: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins in the application."""
    while traceback is not None and traceback.tb_frame.f_globals.get("__name__", "").startswith(_HIDDEN):
        traceback = traceback.tb_next
    return traceback


def _not_found(name: str, missing: str, directory: str) -> str:
    parent, _, last = missing.rpartition(".")
    paths = list(sys.modules[parent].__path__) if parent in sys.modules else [directory]
    names = [module.name for module in pkgutil.iter_modules(paths)]
    close = _close(last, names)
    hint = f"; did you mean {f'{parent}.' if parent else ''}{close}?" if close else f" (looked in {paths[0]})"
    return f"there is no module {missing!r}{hint}" + (f", for {name!r}" if name != missing else "")


def _hidden_file(name: str, found: object) -> str:
    """Return that a file of the current directory was not loaded, because a loaded module has its name."""
    loaded = getattr(found, "__file__", None)
    if loaded is None or "." in name or not os.path.exists(f"{name}.py"):
        return ""
    if os.path.realpath(loaded) == os.path.realpath(f"{name}.py"):
        return ""
    return f": {name}.py in this directory has the name of a module of Python ({loaded}); rename it"


def _suggestion(name: str, found: object) -> str:
    """Return a similar name, or else the names of apps, or those of the modules of a package."""
    close = _close(name, [other for other in dir(found) if not other.startswith("__")])
    if close:
        return f"; did you mean {close!r}?"
    apps = [key for key, value in vars(found).items() if isinstance(value, App | AsyncWebsocketApp)]
    if apps:
        return f"; its apps are {', '.join(apps)}"
    modules = sorted(module.name for module in pkgutil.iter_modules(getattr(found, "__path__", ())))
    return f"; its modules are {', '.join(modules)}" if modules else ""


def _close(name: str, names: Iterable[str]) -> str | None:
    """Return the name that is most similar, without regard to upper case."""
    folded = {other.lower(): other for other in names}
    found = difflib.get_close_matches(name.lower(), folded, n=1)
    return folded[found[0]] if found else None
