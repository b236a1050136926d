"""The HTTP server: listeners, transports, connections and the HTTP/1.1 codec. It does not depend on App."""
