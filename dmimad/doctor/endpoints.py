"""What the daemon serves over HTTP: could it, and does it?

Nothing listens, not for a moment, so that no scrape is lost: that a port is in use shows when one is bound to
it, and whose it then is, the daemon's or another program's, is for the check to say.
"""

from __future__ import annotations

import errno
import os

from dmimad.adapters.http.server import Place, try_to_listen
from dmimad.broker_access import Served, check_served_files
from dmimad.config import Caution, metrics_in_clear, page_hidden, page_in_clear
from dmimad.core.errors import AdapterError
from dmimad.doctor.facts import EndpointFacts
from dmimad.doctor.host import errno_behind, trouble_told
from dmimad.settings import Settings


def look_at_endpoint(settings: Settings, name: str, now: float) -> EndpointFacts:
    """One of them, `name` in the settings; `now` in Unix seconds."""
    served: Served = getattr(settings, name)
    place = endpoint_place(settings, name)
    if not served.enabled:
        return EndpointFacts(enabled=False, where=place.host_port)
    try:
        how, expiring = check_served_files(served, name, os.environ, now)
        free = _is_free(place)
    except AdapterError as error:
        return EndpointFacts(enabled=True, where=place.host_port, trouble=trouble_told(error))
    return EndpointFacts(True, place.host_port, how, free, (*_cautions(settings, name), *expiring))


def endpoint_place(settings: Settings, name: str) -> Place:
    """Where it is to be."""
    served: Served = getattr(settings, name)
    return Place(name, served.address, served.port)


def _cautions(settings: Settings, name: str) -> list[Caution]:
    if name == "metrics":
        return metrics_in_clear(settings.metrics)
    return [*page_in_clear(settings.page), *page_hidden(settings)]


def _is_free(place: Place) -> bool | None:
    """None: it may be any port.  Raises AdapterError where no program could listen."""
    try:
        try_to_listen(place)
    except AdapterError as error:
        if errno_behind(error) != errno.EADDRINUSE:
            raise
        return False
    return True if place.port else None
