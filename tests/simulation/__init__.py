"""A simulation of a linked pair: an App and an AsyncWebsocketApp, their clients, and faults.

Everything runs in memory and in virtual time, through public names of the library. A script is generated from a
seed. It has the actions of each client and each handler, and the faults. The run writes a journal. The model
checks the journal: it is the specification of the library as a program.

    script    the actions as plain values
    generate  a script for a seed
    handlers  the application: performs a script's actions in handlers and tasks
    clients   the clients: WebSockets over wsproto
    streams   the server's end of a connection: direct or foreign
    faults    the seeded scheduler, cancellation at a step, and a watch for work without progress
    journal   the observations
    model     the checks of the journal
    runner    one run: builds the pair, plays a script, returns the violations
    shrink    the shortest script that still fails

``python -m tests.simulation --seeds 1000`` runs it; ``tests/test_simulation.py`` runs some seeds in the suite.
"""
