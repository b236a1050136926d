"""Report on the certificate of an SSL context: what it is for, and whether it must be renewed."""

from __future__ import annotations

import ssl
import time

from ._certificate_facts import read_certificate
from ._report import Report

_DAY = 86_400
#: Days before the end of a certificate: later renewals are late. Clients of Let's Encrypt renew it 30 days before.
_LATE = 14


def report_certificate(context: ssl.SSLContext, report: Report) -> None:
    """Report the names of a certificate and its end. Its key was checked when the context was created.

    Args:
        context: the context of the server.
        report: gets the facts and the warnings.
    """
    try:
        facts = read_certificate(context)
    except (ssl.SSLError, ValueError) as exc:
        report.warn(f"the certificate cannot be read as a client does: {getattr(exc, 'reason', None) or exc}")
        return
    days = (facts.end - time.time()) / _DAY
    until = time.strftime("%Y-%m-%d", time.gmtime(facts.end))
    names = ", ".join(facts.names) or "no name"
    report.fact("certificate", f"for {names}, valid until {until}; the key belongs to it")
    if not facts.names:
        report.warn("the certificate has no names (subjectAltName), so clients refuse it for every host")
    if facts.begin > time.time():
        report.warn(f"the certificate is not valid before {time.strftime('%Y-%m-%d', time.gmtime(facts.begin))}")
    if days <= 0:
        report.warn(f"the certificate has expired on {until}")
    elif days < _LATE:
        report.warn(f"the certificate expires in {days:.0f} days, on {until}: renew it")
