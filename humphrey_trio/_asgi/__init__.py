"""ASGI apps that an ``App`` serves: their scopes, messages, responses, WebSockets and lifespans."""
