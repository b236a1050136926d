"""A simulation of a linked pair: an App and an AsyncWebsocketApp, their clients, and faults.

Everything runs in memory and in virtual time, through public names of the library. A script is generated from a
seed. It has the actions of each client and each handler, and the faults. The run writes a journal. The model
checks the journal: it is the specification of the library as a program.

    script           the actions as plain values
    generate         a script for a seed; http_generate: its HTTP requests
    pair             the two apps, linked as the script says
    handlers         the WebSocket application: performs a script's actions in handlers and tasks
    http_handlers    the HTTP application: handlers, bodies and layers
    clients          the clients: HTTP requests first, then a WebSocket over wsproto
    http_clients     the HTTP part of a client: pipelining, bodies, responses over h11
    streams          the server's end of a connection: direct or foreign
    faults           the seeded scheduler, cancellation at a step, and a watch for work without progress
    journal          the observations; exchanges: those of HTTP requests; logs: what was logged
    model            all checks of the journal, and those of the whole run
    websocket_model  the checks for WebSockets
    http_model       the checks for HTTP; http_expected: what they expect; http_bodies: the bodies of responses
    times            the seconds within which the library promises something
    runner           one run: plays a script, returns the violations
    shrink           the shortest script that still fails

``python -m tests.simulation --seeds 1000`` runs it; ``tests/test_simulation.py`` runs some seeds in the suite.
"""
