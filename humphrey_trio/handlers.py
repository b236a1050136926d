"""Ready-made request handlers: files, redirects and metrics."""

from ._handlers._files import file_response as file_response
from ._handlers._files import serve_as_file_path as serve_as_file_path
from ._handlers._files import serve_dir as serve_dir
from ._handlers._files import serve_file as serve_file
from ._handlers._metrics import serve_metrics as serve_metrics
from ._handlers._redirect import redirect as redirect

__all__ = ["file_response", "redirect", "serve_as_file_path", "serve_dir", "serve_file", "serve_metrics"]
