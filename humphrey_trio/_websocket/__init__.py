"""WebSockets: messages, frames, the handshake, the streams, and the event-driven app."""
