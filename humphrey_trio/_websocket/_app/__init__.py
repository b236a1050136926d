"""The clients of an event-driven application."""
