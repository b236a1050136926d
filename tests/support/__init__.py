"""Helpers of several test modules, one job for a module.

| module | what is in it |
| --- | --- |
| `answers` | the answers of handlers that are called without an app |
| `apps` | apps that are served in memory, alone or linked |
| `asgi_probes` | what the handlers of a framework tell a test, and what they wait for |
| `asgi_sites` | ASGI apps that an `App` serves on a port, and real clients for them |
| `browser` | a headless Chromium, and its pages, in which tests run scripts |
| `caddy` | Caddy in front of a server |
| `cancellation` | an exchange that is cancelled at every step, and checks that it leaves nothing |
| `certificates` | a certificate authority, and TLS contexts |
| `clients` | clients on any stream |
| `close_records` | the close records in the log, and an app and a client that make them |
| `command_line` | the command line in a process of its own |
| `compression_clients` | clients that agree on permessage-deflate, and apps for them |
| `deflate` | the two ends of permessage-deflate without a connection |
| `descriptors` | the open files of this process below a directory |
| `documentation` | the blocks of the documentation, and how tests run those of Python |
| `drain_clients` | what clients send and receive while a server drains |
| `drain_handlers` | handlers for apps that drain |
| `draining` | apps that drain, and the connections of their clients |
| `event_recorder` | handlers that record the events of their streams in order |
| `fastapi_apps` | an app of FastAPI that uses most of the framework |
| `growth` | how the time of some work grows with the size of its data |
| `handler_recorder` | message handlers that do some work and record when they begin and how they end |
| `handshakes` | opening handshakes, and apps and clients for them |
| `held_app` | an app whose message handlers wait, for tests of statistics |
| `hosted_apps` | WebSocket apps that an `App` runs, and what their clients do |
| `http_clients` | clients of HTTP/1.1, the bytes of their requests, and apps that are served to them |
| `http_reader` | request heads and bodies from a `RequestReader`, and the bytes of requests |
| `links` | plain TCP and TLS: how an app listens, and how a client connects |
| `logs` | what was logged |
| `litestar_apps` | an app of Litestar that uses most of the framework |
| `mcp_apps` | a server of the Model Context Protocol |
| `nginx` | nginx in front of a server |
| `outboxes` | an outbox on a transport that takes as many bytes as a test wants |
| `parsers` | a fixture: run a test with each parser of request heads |
| `policy_app` | an app with clients that do not read, for tests of the policies of broadcasts |
| `programs` | programs in processes of their own |
| `quart_apps` | an app of Quart-Trio that uses most of the framework |
| `reads` | bytes cut into reads, and the events that a decoder returns for them |
| `reloading` | a server that restarts when its source changes |
| `restarts` | a shop of FastAPI and an `AsyncWebsocketApp`, and clients that use it while its server is replaced |
| `small_app` | a small app with a few routes, for tests of HTTP connections |
| `spies` | records of calls inside the library |
| `starlette_apps` | an app of Starlette that uses most of the framework |
| `steps` | calls and cancellations at the n-th step of tasks |
| `stream_ends` | the ways in which a stream ends |
| `streamed` | clients that send and receive streamed bodies |
| `times` | the resolution of deadlines |
| `tls_peers` | TLS clients that a test drives record by record |
| `tls_transports` | how tests use both ends of a `TlsTransport` |
| `topics` | an app whose clients have names and subscribe to topics |
| `visits` | what a server saw of a browser |
| `websocket_handlers` | apps with one `websocket_handler`, its coroutines, and their clients |
| `wire` | the bytes of requests and of WebSocket frames |
| `wires` | connections in memory whose clients need no task, and servers for many of them |
"""

#: Seconds after which a test fails because it hangs. In virtual time they cost nothing.
PATIENCE = 120
#: An address to listen on, with a port that the system chooses.
ANY_PORT = "127.0.0.1:0"
