"""WebSockets (RFC 6455): messages, frames, the handshake, streams, and the event-driven application."""
