"""One open WebSocket."""
