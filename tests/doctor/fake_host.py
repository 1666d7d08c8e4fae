"""A host laid out in a directory: what the doctor reads of it, and its settings."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from dmimad.config import parse
from dmimad.core.errors import AdapterError
from dmimad.core.observation import LiveDevice, LiveTable, Observation
from dmimad.doctor.checks import Check
from dmimad.doctor.examination import Outside, examine
from dmimad.doctor.witnesses import Patience
from dmimad.settings import Settings
from tests.core.recorded import binary, pcr_values

NOW = 1_795_000_000.0  # November 2026
SHORT = Patience(busy_seconds=0.2, tpm_retry_seconds=0.01, broker_seconds=2.0, live_seconds=2.0)


def device(name: bytes, uuid: bytes = b"", *, minor: int = 0, live: bool = True) -> LiveDevice:
    """A live device; without a table if not ``live``."""
    table = LiveTable(None) if live else None
    return LiveDevice(254, minor, name, uuid, False, False, 0, table, None)


class FakeHost:
    """By default: a kernel 7.2 that measures device-mapper, with a TPM and a recorded list that match."""

    def __init__(
        self, directory: Path, recorded: str = "systematic-7.2", release: str = "7.2.13-test"
    ) -> None:
        self.root = directory / "root"
        self.state = directory / "state"
        self.baseline = directory / "baseline.d"
        self.ima = self.root / "sys/kernel/security/integrity/ima"
        self.list = self.ima / "binary_runtime_measurements"
        self.release = release
        self.devices: tuple[LiveDevice, ...] | AdapterError = ()
        self.user = 0
        self.now = NOW
        self.patience = SHORT
        self.write("proc/sys/kernel/osrelease", f"{release}\n")
        self.write("proc/cmdline", "quiet ima_policy=tcb|critical_data\n")
        self.write("proc/devices", "Block devices:\n  7 loop\n254 device-mapper\n")
        self.write("proc/locks", "")
        self.configure("CONFIG_IMA=y\n# CONFIG_IMA_DISABLE_HTABLE is not set\n")
        self.set_list(binary(recorded), mode=0o660 if release.startswith("7.2") else 0o440)
        for bank, value in pcr_values(recorded).items():
            self.set_pcr(bank, value)
        self.settings: Settings = parse(b"", str(directory / "dmimad.toml"), host_id=lambda: "web-1")
        self.set("mqtt", enabled=False)
        # Any port: what else this machine serves says nothing of this host.
        self.set("metrics", port=0)
        self.set("page", port=0)
        self.set("state", directory=str(self.state))
        self.set("baseline", directory=str(self.baseline))
        self.state.mkdir(mode=0o700)
        self.baseline.mkdir(mode=0o755)
        (self.baseline / "all.toml").write_text('version = 1\n[[device]]\nname = "*"\n')

    def write(self, path: str, text: str | bytes) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    def use_real_locks(self) -> None:
        """Who holds the lock on the state is told as on this machine: a `Store` is a running daemon's."""
        locks = self.root / "proc/locks"
        locks.unlink()
        locks.symlink_to("/proc/locks")

    def configure(self, text: str) -> None:
        """The kernel's build configuration."""
        self.write("proc/config.gz", gzip.compress(text.encode()))

    def set(self, section: str, **values: object) -> None:
        """Other settings in one section."""
        changed = replace(getattr(self.settings, section), **values)
        self.settings = replace(self.settings, **{section: changed})

    def set_list(self, data: bytes, *, mode: int = 0o440) -> None:
        self.list.parent.mkdir(parents=True, exist_ok=True)
        self.list.unlink(missing_ok=True)
        self.list.write_bytes(data)
        self.list.chmod(mode)

    def set_pcr(self, bank: str, value: bytes) -> None:
        self.write(f"sys/class/tpm/tpm0/pcr-{bank}/10", value.hex().upper() + "\n")

    async def observe(self) -> Observation:
        if isinstance(self.devices, AdapterError):
            raise self.devices
        return Observation((4, 50, 0), self.devices)

    def outside(self, observe: Callable[[], Awaitable[Observation]] | None = None) -> Outside:
        return Outside(observe or self.observe, self.user, self.now, root=self.root, patience=self.patience)

    def examine(self) -> dict[str, Check]:
        """All checks by id."""
        checks = examine(self.settings, self.root.parent / "dmimad.toml", self.outside())
        assert len({check.id for check in checks}) == len(checks)
        return {check.id: check for check in checks}
