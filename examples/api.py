"""A JSON API: methods, parameters, errors, and a layer that checks tokens.

python examples/api.py [PORT]

curl http://127.0.0.1:8080/notes?search=tea
curl http://127.0.0.1:8080/notes -H 'Authorization: Bearer secret' --json '{"text": "buy tea"}'
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field

import trio

from humphrey_trio import App, HttpError, Request, RequestKey, Response
from humphrey_trio.layers import CallNext

USERS = {"Bearer secret": "ann"}
USER = RequestKey[str]("user")


@dataclass(frozen=True)
class Note:
    number: int
    author: str
    text: str


@dataclass
class Notes:
    notes: dict[int, Note] = field(default_factory=dict[int, Note])
    last: int = 0

    def find(self, request: Request) -> Note:
        number = request.path_param("number", int)  # not a number: 404
        if number not in self.notes:
            raise HttpError(404, f"there is no note {number}")
        return self.notes[number]


async def check_token(request: Request, state: Notes, call_next: CallNext) -> Response:
    """Anyone may read, and users may write."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return await call_next(request)
    user = USERS.get(request.headers.get("Authorization", ""))
    if user is None:
        raise HttpError(401, "a token is missing or wrong", headers={"WWW-Authenticate": "Bearer"})
    return await call_next(request.with_value(USER, user))


def read_text(request: Request) -> str:
    match request.json():  # not JSON: 400
        case {"text": str(text)} if text:
            return text
        case _:
            raise HttpError(400, 'send {"text": "..."}')


async def list_notes(request: Request, state: Notes) -> Response:
    search = request.query_param("search", str, default="")
    limit = request.query_param("limit", int, default=100)
    found = [asdict(note) for note in state.notes.values() if search in note.text]
    return Response.json(found[: max(limit, 0)])


async def add_note(request: Request, state: Notes) -> Response:
    text = read_text(request)
    state.last += 1
    note = state.notes[state.last] = Note(state.last, request[USER], text)
    return Response.json(asdict(note), status=201, headers={"Location": f"/notes/{note.number}"})


async def show_note(request: Request, state: Notes) -> Response:
    return Response.json(asdict(state.find(request)))


async def change_note(request: Request, state: Notes) -> Response:
    number = state.find(request).number
    note = state.notes[number] = Note(number, request[USER], read_text(request))
    return Response.json(asdict(note))


async def delete_note(request: Request, state: Notes) -> Response:
    del state.notes[state.find(request).number]
    return Response.empty(204)


async def main(port: int) -> None:
    app = (
        App(Notes())
        .with_layer(check_token)
        .with_route("/notes", list_notes, methods=("GET",))
        .with_route("/notes", add_note, methods=("POST",), max_body=10_000)
        .with_route("/notes/{number}", show_note, methods=("GET",))
        .with_route("/notes/{number}", change_note, methods=("PUT",), max_body=10_000)
        .with_route("/notes/{number}", delete_note, methods=("DELETE",))
    )
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(app.run, f"127.0.0.1:{port}")
        print(f"the notes are at http://{address}/notes", flush=True)


if __name__ == "__main__":
    status = 0
    try:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    except* KeyboardInterrupt:
        status = 130  # the exit status of shells for SIGINT
    sys.exit(status)
