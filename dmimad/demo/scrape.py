"""Fetches the daemon's metrics the way Prometheus does, over HTTP.

Source: Prometheus' text format, read by prometheus_client's own parser.  urllib is not used: it would ask
a proxy where one is configured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from dmimad.core.errors import AdapterError

_SECONDS = 10.0

#: Name and sorted labels -> value.
Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(url: str) -> Samples:
    """All samples served at `url`; raises AdapterError."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode("ascii"))
                answer = await reader.read(-1)
            finally:
                writer.close()
    except OSError as error:  # TimeoutError is one
        raise AdapterError(f"no metrics: {error}", url) from error
    _, _, body = answer.partition(b"\r\n\r\n")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode("utf-8", "replace"))
        for sample in family.samples
    }


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum over all samples of that name with these labels."""
    wanted = set(labels.items())
    return sum(value for (found, have), value in samples.items() if found == name and wanted <= set(have))
