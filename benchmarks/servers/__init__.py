"""The servers that are compared: one small program each, started as `python -m benchmarks.servers.NAME PORT`.

Each serves on 127.0.0.1: `GET /` (13 bytes), `POST /echo` (returns the body), the WebSocket `/ws` (returns each
message) and the WebSocket `/broadcast` (sends each message to all its clients, including the sender). If a server
has such settings, access logs, compression and pings of the server are disabled, and its backlog is large.
"""
