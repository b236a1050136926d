"""Which error response a file gets that cannot be opened."""

from __future__ import annotations

import errno

from .._http._errors import HttpError

_NOT_FOUND = {
    *(errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
    # What some systems and file systems raise for names that they do not allow, and for sockets and devices.
    *(errno.EINVAL, errno.EILSEQ, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP, errno.EMLINK),
}
_FORBIDDEN = {errno.EACCES, errno.EPERM}


def http_error_of(error: OSError) -> HttpError:
    """Return a 404 if there is no such file, and a 403 if the process may not read it.

    A 404 would hide that an unreadable file exists, but it would also hide wrong permissions from the
    administrator.

    Args:
        error: the reason.

    Raises:
        OSError: ``error``, if it is a failure of the server, such as too many open files or a broken disk.
    """
    if error.errno in _NOT_FOUND:
        return HttpError(404)
    if error.errno in _FORBIDDEN:
        return HttpError(403)
    raise error
