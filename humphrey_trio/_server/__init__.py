"""The HTTP server: listeners, connections, and the h11 engine behind them. It never sees App."""
