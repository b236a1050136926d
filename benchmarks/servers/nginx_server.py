"""nginx with one process: files only. It becomes the process of this program."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

from benchmarks.catalogue import program
from benchmarks.servers.arguments import Arguments

PR_SET_PDEATHSIG = 1  # prctl(2)

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location /files/ {{ alias {folder}/; }}
    }}
}}
"""


def main(arguments: Arguments) -> None:
    folder = Path(arguments.folder or "")
    configuration = folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, port=arguments.port))
    found = program("nginx")
    assert found is not None
    # The other servers end by an alarm. nginx handles SIGALRM, so it ends with the process that has started it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execv(found, ["nginx", "-e", "stderr", "-c", str(configuration)])


if __name__ == "__main__":
    main(Arguments.read())
