"""A simulation of a linked pair: an App and an AsyncWebsocketApp, their clients, and what may go wrong.

Everything runs in memory and in virtual time, through public names of the library only. A script says what each
client and each handler does, and which faults occur; it is made from a seed. The run writes a journal. The model
says what has to be true of every journal: it is the specification of the library as a program.

    script    what happens: actions as plain values, and how they are printed
    generate  a script for a seed
    handlers  what the application does: performs a script's actions in handlers and tasks
    clients   what clients do: WebSockets over wsproto
    streams   the server's end of a connection: direct or foreign
    faults    the seeded scheduler, cancellation at a step, and a watch for work without progress
    journal   what was observed
    model     what has to be true of it
    runner    one run: builds the pair, plays a script, gives the violations
    shrink    the shortest script that still fails

``python -m tests.simulation --seeds 1000`` runs it; ``tests/test_simulation.py`` runs some seeds in the suite.
"""
