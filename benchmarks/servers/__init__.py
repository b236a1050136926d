"""The servers that are compared: one small program each, started as `python -m benchmarks.servers.NAME PORT`.

Every one serves the same four things on 127.0.0.1: `GET /` (13 bytes), `POST /echo` (the body back), the
WebSocket `/ws` (every message back) and the WebSocket `/broadcast` (every message to everybody there, the
sender too). Access logs, compression and server pings are off, and queues for new connections are long,
wherever a server has such a setting.
"""
