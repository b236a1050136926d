"""The watchdog of the event loop: it logs which function blocks it. It knows nothing of servers."""
