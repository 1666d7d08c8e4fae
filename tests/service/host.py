"""The files of one monitored host: a mirrored list that grows, baselines, settings, the daemon's state."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

DEADLINE_SECONDS = 60.0


class Host:
    """A host in a directory of its own; its settings lead everything into that directory.

    Alerts have no hold-off and each is told by itself unless `alerts` says otherwise, so that what the daemon
    sends depends on the list alone and not on the time it took.
    """

    def __init__(
        self, directory: Path, broker_port: int, name: str = "web-1", *, baseline: Path | None = None
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.name = name
        self.directory = directory
        self.list = directory / "list"
        self.state = directory / "state"
        self.baseline = baseline or directory / "baseline.d"
        self.settings = directory / "dmimad.toml"
        self.socket = directory / "control.sock"
        self.baseline.mkdir(exist_ok=True)
        self._sections: dict[str, dict[str, Any]] = {
            "host": {"id": name},
            "source": {"path": str(self.list)},
            "mqtt": {"port": broker_port},
            "metrics": {"port": 0},
            "page": {"port": 0},
            "control": {"socket": str(self.socket)},
            "state": {"directory": str(self.state)},
            "baseline": {"directory": str(self.baseline)},
            "alerts": {"hold_off_seconds": 0, "storm_threshold": 0, "flap_threshold": 0},
            "log": {"format": "json"},
        }
        self.configure()

    def configure(self, **sections: Mapping[str, Any]) -> None:
        """Change settings and write the file; None as a value: leave that setting out."""
        for section, values in sections.items():
            self._sections.setdefault(section, {}).update(values)
        lines = []
        for section, values in self._sections.items():
            lines.append(f"[{section}]")
            # A JSON string, number, boolean or list of strings is the same in TOML.
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
        self._replace(self.settings, "\n".join(lines) + "\n")

    def approve(self, *entries: str, file: str = "main.toml") -> None:
        """Write a baseline file of `entries` (see `entry`)."""
        self._replace(self.baseline / file, "version = 1\n" + "\n".join(entries))

    def write_list(self, data: bytes) -> None:
        """The list as another file, put in the place of the former as `rename` does."""
        fresh = self.list.with_suffix(".new")
        fresh.write_bytes(data)
        fresh.rename(self.list)

    def append(self, data: bytes) -> None:
        """The list grows."""
        with self.list.open("ab", buffering=0) as stream:
            stream.write(data)

    def position(self) -> int:
        """Records the daemon has read, by what it has stored."""
        checkpoints = [json.loads(document) for (document,) in self._rows("SELECT document FROM checkpoint")]
        return int(checkpoints[0]["position"]["records"]) if checkpoints else 0

    def devices(self) -> dict[str, dict[str, Any]]:
        """The devices the daemon has stored, by key."""
        return {key: json.loads(document) for key, document in self._rows("SELECT key, document FROM device")}

    async def settled(self, records: int) -> None:
        """Until the daemon has stored that it has read so many records, and all alerts are acknowledged.

        Not by its metrics: those are a moment ahead of what is stored, and there is no alert without that.
        """
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while self.position() != records or self.outbox():  # noqa: ASYNC110  # SQLite has no event for it
                    await asyncio.sleep(0.02)  # between two looks
        except TimeoutError:
            waiting = f"position {self.position()} of {records}, {len(self.outbox())} in the outbox"
            raise AssertionError(f"not settled: {waiting}") from None

    def outbox(self) -> list[bytes]:
        """Payloads the daemon has stored and not seen acknowledged, in order."""
        return [payload for (payload,) in self._rows("SELECT payload FROM outbox ORDER BY seq")]

    def told(self) -> int:
        """How many messages there have been, delivered or not."""
        (number,) = self._rows("SELECT max(seq) FROM sqlite_sequence WHERE name = 'outbox'")[0]
        return int(number or 0)

    def dead_letters(self) -> list[bytes]:
        """Payloads the daemon has given up on."""
        return [payload for (payload,) in self._rows("SELECT payload FROM dead_letter ORDER BY seq")]

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        database = self.state / "dmimad.db"
        if not database.exists():
            return []
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=10)) as db:
            made = db.execute(
                "SELECT 1 FROM sqlite_schema"
            ).fetchone()  # all tables are made in one transaction
            return db.execute(query).fetchall() if made else []

    def _replace(self, path: Path, text: str) -> None:
        fresh = self.directory / (path.name + ".new")
        fresh.write_text(text)
        fresh.rename(path)


def entry(name: str, hashes: Iterable[str] = (), *, required: bool = False) -> str:
    """One [[device]] of a baseline."""
    lines, approved = ["[[device]]", f"name = {json.dumps(name)}"], list(hashes)
    lines += [f"hashes = {json.dumps(approved)}"] if approved else []
    return "\n".join([*lines, "required = true"] if required else lines) + "\n"
