"""A real Prometheus that a test starts: its settings and rules, its targets, its answers to queries."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.broker import free_port
from tests.conftest import find_program
from tests.service.daemon_process import DEADLINE_SECONDS


@contextlib.asynccontextmanager
async def prometheus(directory: Path, text: str) -> AsyncIterator[str]:
    """Address of a Prometheus with these settings; it scrapes each second, so that nobody has to wait."""
    file, port = directory / "prometheus.yml", free_port()
    file.write_text(text.replace("scrape_interval: 15s", "scrape_interval: 1s"))
    process = await asyncio.create_subprocess_exec(
        find_program("prometheus", "prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            process.kill()
        await process.wait()


async def ask(address: str, path: str, **parameters: str) -> Any:
    """`data` of an answer of the API, see `/api/v1/` there; None while Prometheus does not answer yet.

    An error that Prometheus tells fails the test with its words.
    """
    host, _, port = address.partition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return None
    target = f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    writer.write(f"GET {target} HTTP/1.0\r\n\r\n".encode("ascii"))
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    if b" 503 " in head.splitlines()[0]:  # it is still starting
        return None
    answer = json.loads(body)
    assert answer["status"] == "success", f"{parameters}: {answer}"
    return answer["data"]


async def until(address: str, what: Callable[[Any], bool], path: str, **parameters: str) -> Any:
    """What `ask` answers once `what` is true of it; Prometheus tells nobody when that is so."""
    found: Any = None
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (found := await ask(address, path, **parameters)) is None or not what(found):  # noqa: ASYNC110  # nor has HTTP an event
                await asyncio.sleep(0.1)  # between two looks
    except TimeoutError:
        raise AssertionError(f"{path} {parameters}: {found}") from None
    return found


async def query(address: str, expression: str) -> list[dict[str, Any]]:
    """The series that an expression has now: `metric` (labels) and `value` (time, number as text)."""
    found = await ask(address, "query", query=expression)
    assert found is not None, "Prometheus does not answer"
    assert found["resultType"] == "vector", found
    return list(found["result"])


async def scraped(address: str, number: int) -> dict[str, dict[str, Any]]:
    """So many targets by their job, each scraped once."""

    def settled(found: Any) -> bool:
        health = [target["health"] for target in found["activeTargets"]]
        return len(health) == number and "unknown" not in health

    found = await until(address, settled, "targets")
    return {target["labels"]["job"]: target for target in found["activeTargets"]}


@dataclass(frozen=True, slots=True)
class Window:
    """The last seconds, one point for each."""

    seconds: int

    async def query(self, address: str, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has there: `metric` (labels) and `values` (as in `query`)."""
        now = time.time()
        places = {"start": f"{now - self.seconds:.3f}", "end": f"{now:.3f}", "step": "1"}
        found = await ask(address, "query_range", query=expression, **places)
        assert found is not None, "Prometheus does not answer"
        return list(found["result"])


async def label_values(address: str, selector: str, label: str) -> set[str]:
    """The values that a label has in the series of a selector."""
    found = await ask(address, "series", **{"match[]": selector})
    assert found is not None, "Prometheus does not answer"
    return {labels[label] for labels in found if label in labels}
