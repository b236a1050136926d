"""What ``module:app`` may name, and the errors of everything else."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from humphrey_trio import App, AsyncWebsocketApp, Response, SubApp
from humphrey_trio._cli._errors import UsageError
from humphrey_trio._cli._main import main
from humphrey_trio._cli._served_app import open_app
from humphrey_trio.testing import http_client, websocket_client

SITE = """
from humphrey_trio import App, AsyncWebsocketApp

app = App()
admin_app = AsyncWebsocketApp()


class Group:
    main = app
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with some modules. They are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "shop.py").write_text(SITE)
    (tmp_path / "broken.py").write_text("def f():\n    1 / 0\n\n\nf()\n")
    (tmp_path / "needs.py").write_text("import no_such_library\n")
    (tmp_path / "typo.py").write_text("app = (\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "site.py").write_text(SITE)
    return tmp_path


def failure(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command with the status 2 prints."""
    assert main(arguments) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("shop", "'shop' is not an app: write the name of the app behind the module: shop:app"),
        ("shop:", "'shop:' is not an app: write the module and the name of the app in it, such as shop:app"),
        (":app", "':app' is not an app: write the module and the name"),
        ("shop.py", "write a module instead of a file: shop:app"),
        ("shop.py:main", "write a module instead of a file: shop:main"),
        ("./package/site.py:app", "write a module instead of a file: package.site:app"),
        ("../shop.py:app", "write a module instead of a file: shop:app, in the directory .."),
        ("shpo:app", "there is no module 'shpo'; did you mean shop?"),
        ("package.sit:app", "there is no module 'package.sit'; did you mean package.site?"),
        ("zzz:app", "there is no module 'zzz' (looked in "),
        ("zzz.site:app", "there is no module 'zzz' (looked in "),
        ("shop:ap", "shop has no 'ap'; did you mean 'app'?"),
        ("shop:APP", "shop has no 'APP'; did you mean 'app'?"),
        ("shop:server", "shop has no 'server'; its apps are app, admin_app"),
        ("package:app", "package has no 'app'; its modules are site"),
        ("shop:Group.maim", "shop:Group has no 'maim'; did you mean 'main'?"),
    ],
)
def test_targets_that_cannot_be_found(
    folder: Path, capsys: pytest.CaptureFixture[str], target: str, said: str
) -> None:
    """A wrong form, module or name is one line that says what to write, and the status is 2."""
    error = failure(target, capsys=capsys)
    assert error.startswith("python -m humphrey_trio: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_module_with_the_name_of_one_of_python(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If a module of Python is loaded in place of a file, the error says so."""
    (folder / "json.py").write_text(SITE)
    error = failure("json:app", capsys=capsys)
    assert "json has no 'app': json.py in this directory has the name of a module of Python (" in error
    assert error.endswith("json/__init__.py); rename it\n")


def test_a_name_with_dots(folder: Path) -> None:
    """The name may have dots, and the module may be in a package."""
    from humphrey_trio._cli._load import load

    assert isinstance(load("package.site:Group.main"), App)


@pytest.mark.parametrize(
    ("module", "last_line"),
    [
        ("broken", "ZeroDivisionError: division by zero"),
        ("needs", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("typo", "SyntaxError: '(' was never closed"),
    ],
)
def test_exceptions_of_the_module(
    folder: Path, capsys: pytest.CaptureFixture[str], module: str, last_line: str
) -> None:
    """An exception while the module is imported is printed with the traceback of the application only."""
    error = failure(f"{module}:app", capsys=capsys)
    *shown, line, end = error.splitlines()
    assert line == last_line
    assert re.fullmatch(rf"python -m humphrey_trio: the module '{module}' cannot be imported, .*", end)
    files = re.findall(r'File "(.*?)"', "\n".join(shown))
    assert files
    assert {Path(file).name for file in files} == {f"{module}.py"}


# ----------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: module:app"),
        (["shop:app", "--bind", "8080"], "'8080' is not an address: write 127.0.0.1:8080"),
        (["shop:app", "--bind", "a:99999"], "'a:99999' is not an address: a port is at most 65535"),
        (["shop:app", "--port", "80"], "--host and --port are one option here: write --bind 127.0.0.1:8080"),
        (["shop:app", "--host", "::"], "--host and --port are one option here: write --bind 127.0.0.1:8080"),
        (["shop:app", "--bind", "fd:"], "'fd:' needs the number or the name of a descriptor"),
        (["shop:app", "--unix-mode", "999"], "'999' is not a mode: write three octal digits, such as 660"),
        (["shop:app", "--unix-mode", "1777"], "'1777' is not a mode"),
        (["shop:app", "--unix-mode", "660"], "--unix-mode is the mode of Unix sockets: pass --bind unix:/path"),
        (["shop:app", "--check", "--reload"], "--check does not serve, so there is nothing to reload"),
        (["shop:app", "--tls-key", "key.pem"], "--tls-key belongs to a certificate: pass --tls-cert as well"),
        (["shop:app", "--acces-log"], "unrecognized arguments: --acces-log"),
    ],
)
def test_options_that_are_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    """A wrong option is a usage error, with the status 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


# ------------------------------------------------------------------------------- the app of an object


def hello() -> App:
    return App().with_stateless_route("/", lambda _: Response(200, "hello"))


async def assert_says_hello(found: object) -> None:
    async with open_app(found, "shop:it") as app, http_client(app) as client:
        assert (await client.get("/")).text == "hello"


async def async_hello() -> App:
    return hello()


@asynccontextmanager
async def managed_hello() -> AsyncGenerator[App]:
    yield hello()


class Managed:
    """A factory that is a class, and an async context manager."""

    async def __aenter__(self) -> App:
        return hello()

    async def __aexit__(self, *_: object) -> None:
        pass


class Factories:
    """A factory that is a method, with a parameter that is not required."""

    def make(self, debug: bool = False, *more: object, **others: object) -> App:
        return hello()


@pytest.mark.parametrize("found", [hello, async_hello, managed_hello, Managed, Factories().make])
async def test_factories(found: object) -> None:
    """Plain and async functions, methods, classes and context managers are factories."""
    await assert_says_hello(found)


async def test_an_app_is_served_as_it_is() -> None:
    """An ``App`` is not copied."""
    app = hello()
    async with open_app(app, "shop:app") as served:
        assert served is app


async def test_a_websocket_app_keeps_its_settings() -> None:
    """The origins and the state of an internally linked app are used, and its timeouts are those of the app."""
    from humphrey_trio.websocket import HandshakeError

    async with open_app(AsyncWebsocketApp(origins="https://site.example"), "shop:app") as served:
        headers = {"Origin": "https://site.example"}
        async with websocket_client(served, "/any", headers=headers):
            pass
        with pytest.raises(HandshakeError):
            async with websocket_client(served, "/any", headers={"Origin": "https://foe.example"}):
                pass


@contextmanager
def plain_context() -> Generator[App]:
    yield hello()


async def async_generator() -> AsyncGenerator[App]:
    yield hello()


def of_websocket_app_that_has_an_app() -> AsyncWebsocketApp:
    websocket_app = AsyncWebsocketApp.new_unlinked()
    App().with_websocket_app("/ws", websocket_app)
    return websocket_app


class AsgiApp:
    """An ASGI app that is an object, as those of most frameworks are."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": scope["path"].encode()})


@pytest.mark.parametrize("found", [AsgiApp(), AsgiApp().__call__, lambda: AsgiApp()])
async def test_an_asgi_app(found: Any) -> None:
    """An ASGI app is served at every path, also one that a factory returns."""
    async with open_app(found, "shop:app") as app, http_client(app) as client:
        assert (await client.get("/a/b")).text == "/a/b"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "shop:it cannot be served: it is None, and must be an App, an AsyncWebsocketApp,"),
        ([hello()], "it is of type list, and must be"),
        (SubApp(), "it is of type SubApp, and must be .*; add its routes to an App: App"),
        (lambda request: None, "it is a callable with 1 required parameter, and must be"),
        (App, "it is the class App, and must be .*; name the object, not its class"),
        (AsyncWebsocketApp, "it is the class AsyncWebsocketApp"),
        (lambda: None, r"what shop:it\(\) returns cannot be served: it is None"),
        (lambda: hello, r"what shop:it\(\) returns cannot be served: it is of type function"),
        (plain_context, "and must be .*; write async def, and decorate it with contextlib.async"),
        (async_generator, "it is of type async_generator, .*; decorate the function with contextlib.async"),
        (
            asynccontextmanager(lambda: async_generator_of(None)),
            "what the context manager of shop:it returns cannot be served: it is None",
        ),
        (of_websocket_app_that_has_an_app(), "shop:it cannot be served alone: another App runs this app"),
    ],
)
async def test_objects_that_are_not_apps(found: Any, said: str) -> None:
    """Anything else is an error that says what it is, and what it must be."""
    with pytest.raises(UsageError, match=said):
        async with open_app(found, "shop:it"):
            pass


async def async_generator_of(value: object) -> AsyncGenerator[object]:
    yield value
