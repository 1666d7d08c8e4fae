"""What the daemon serves over HTTP: could it, and does it?

Nothing listens, not for a moment, so that no scrape is lost: that a port is in use shows when one is bound to
it, and whose it then is, the daemon's or another program's, is for the check to say.
"""

from __future__ import annotations

import errno
import os

from dmimad.adapters.http.server import Place, try_to_listen
from dmimad.broker_access import Served, check_served_files
from dmimad.config import in_clear, page_hidden
from dmimad.core.errors import AdapterError
from dmimad.doctor.facts import EndpointFacts, Trouble
from dmimad.settings import Settings


def look_at_endpoint(settings: Settings, name: str, now: float) -> EndpointFacts:
    """One of them, `name` in the settings; `now` in Unix seconds."""
    served: Served = getattr(settings, name)
    where = endpoint_place(settings, name)
    if not served.enabled:
        return EndpointFacts(enabled=False, where=where)
    try:
        files = check_served_files(served, name, os.environ, now)
        free = _is_free(Place(name, served.address, served.port))
    except AdapterError as error:
        return EndpointFacts(enabled=True, where=where, trouble=_trouble(error))
    ours = [line for line in (*in_clear(settings), *page_hidden(settings)) if line.startswith(f"{name}: ")]
    return EndpointFacts(True, where, files.fine[0], free, (*ours, *files.warnings))


def endpoint_place(settings: Settings, name: str) -> str:
    """Address and port, as in a URL."""
    served: Served = getattr(settings, name)
    address = f"[{served.address}]" if ":" in served.address else served.address
    return f"{address}:{served.port}"


def _is_free(place: Place) -> bool | None:
    """None: it may be any port.  Raises AdapterError where no program could listen."""
    try:
        try_to_listen(place)
    except AdapterError as error:
        if _errno(error) != errno.EADDRINUSE:
            raise
        return False
    return True if place.port else None


def _trouble(error: AdapterError) -> Trouble:
    return Trouble(error.what, error.where, _errno(error), error.remedy)


def _errno(error: AdapterError) -> int:
    cause = error.__cause__
    return (cause.errno or 0) if isinstance(cause, OSError) else 0
