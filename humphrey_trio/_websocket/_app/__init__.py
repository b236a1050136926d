"""The event-driven WebSocket application: its sessions, handlers, broadcasts and topics."""
