"""WebSockets on the wire: no I/O, no trio."""
