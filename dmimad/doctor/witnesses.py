"""The measurement list, the TPM's PCR 10 and the live tables, looked at in turn and told as facts.

Source: ``ima_fs.c`` and ``ima_queue.c`` (a list and a PCR cannot be read at one instant: `dmimad.core.pcr`),
Linux 5.15 to 7.2.

The order: the list to its end, the PCR, the rest of the list; the live tables, the rest of the list: whatever
the TPM or an observer has seen is in the list by then, if it is measured at all.  The list stays open
meanwhile, which on Linux 7.2 keeps others from trimming it for so long.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dmimad.adapters.ima_list import is_kernel_list
from dmimad.adapters.tpm import Tpm
from dmimad.core.errors import AdapterError
from dmimad.core.event import printable
from dmimad.core.observation import LiveDevice, Observation
from dmimad.core.pcr import RETRY_SECONDS, PcrCheck
from dmimad.core.reader import DEFAULT_BANKS, ListReader
from dmimad.doctor.bounded import bounded
from dmimad.doctor.evidence import Evidence
from dmimad.doctor.facts import BankFacts, ListEvidence, ListFacts, LiveFacts, TpmFacts, Trouble
from dmimad.doctor.host import IMA, SECURITYFS, trouble_of, trouble_told

PIECE_BYTES = 1 << 20
BUSY_POLL_SECONDS = 0.1
_AUTO = ("binary_runtime_measurements", "ascii_runtime_measurements")
Observe = Callable[[], Awaitable[Observation]]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each look may take, in seconds."""

    list_seconds: float = 120.0
    busy_seconds: float = 5.0
    tpm_seconds: float = 10.0
    tpm_retry_seconds: float = RETRY_SECONDS
    live_seconds: float = 15.0
    broker_seconds: float = 5.0
    files_seconds: float = 10.0

    @property
    def total_seconds(self) -> float:
        """For list, TPM and live tables together: two long reads, several attempts."""
        return 2 * self.list_seconds + self.busy_seconds + 4 * self.tpm_seconds + self.live_seconds


@dataclass(frozen=True, slots=True)
class Sought:
    """What to look for: the settings that matter here, and where the host's files are."""

    root: Path
    path: str
    tpm: bool
    live: bool
    patience: Patience


class Witnesses:
    """The list, the PCR and the live tables of one host.

    Args:
        sought: what to look for.
        observe: asks the second witness; raises AdapterError.
        progress: is told how many records have been read, now and then.
    """

    def __init__(self, sought: Sought, observe: Observe, progress: Callable[[int], None]) -> None:
        self._sought = sought
        self._observe = observe
        self._progress = progress
        self._tpm = Tpm(sought.root / "sys/class/tpm")
        self._late = False

    def look(self) -> tuple[ListFacts, TpmFacts, LiveFacts]:
        """All three."""
        base = self._list_facts()
        banks = self._banks(base.kernel)
        try:
            with self._opened(base) as (descriptor, path):
                mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
                facts = replace(base, path=str(path), mode=mode)
                return self._look_with(facts, descriptor, banks)
        except (OSError, TimeoutError) as error:
            trouble = trouble_of(error, base.path) if error.errno else Trouble(str(error), base.path)
            return replace(base, trouble=trouble), banks, self._observed(None)

    # -- the list --------------------------------------------------------------------------

    def _list_facts(self) -> ListFacts:
        root, path = self._sought.root, self._sought.path
        kernel = is_kernel_list(path, securityfs=root / SECURITYFS, mountinfo=root / "proc/self/mountinfo")
        place = self._candidates()[0]
        try:
            mode = stat.S_IMODE(place.stat().st_mode)
        except OSError:
            mode = None
        try:
            mounted = any((root / SECURITYFS).iterdir())
        except OSError:
            mounted = False
        return ListFacts(str(place), kernel, mounted, (root / IMA).is_dir(), mode)

    def _candidates(self) -> list[Path]:
        if self._sought.path == "auto":
            return [self._sought.root / IMA / name for name in _AUTO]
        return [Path(self._sought.path)]

    @contextmanager
    def _opened(self, base: ListFacts) -> Iterator[tuple[int, Path]]:
        """The first list that can be opened; waits a while for a writer to be done with it."""
        deadline = time.monotonic() + self._sought.patience.busy_seconds
        while True:
            try:
                descriptor, path = self._open_first()
                break
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(BUSY_POLL_SECONDS)
        try:
            yield descriptor, path
        finally:
            os.close(descriptor)

    def _open_first(self) -> tuple[int, Path]:
        refusal: OSError | None = None
        for path in self._candidates():
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
            except OSError as error:
                refusal = refusal or error
                continue
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor, path
            os.close(descriptor)
            refusal = refusal or OSError(errno.EINVAL, "not a regular file", str(path))
        raise refusal or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _look_with(
        self, facts: ListFacts, descriptor: int, tpm: TpmFacts
    ) -> tuple[ListFacts, TpmFacts, LiveFacts]:
        watched = [bank.bank for bank in tpm.banks if bank.bank in hashlib.algorithms_available]
        evidence = Evidence(ListReader(banks=tuple(dict.fromkeys((*DEFAULT_BANKS, *watched)))))
        trouble = None
        try:
            self._read_on(descriptor, evidence)
            if facts.kernel and not self._late:
                tpm = self._compare(tpm, descriptor, evidence)
            observation = self._observation()
            self._read_on(descriptor, evidence)
        except OSError as error:
            trouble = trouble_of(error, facts.path)
            observation = Trouble("not compared: the list cannot be read", facts.path)
        if not facts.kernel and not self._late:
            evidence.close()  # a record the kernel has not finished printing is no fault; in a file it is
        found = evidence.result()
        broken = str(evidence.reader.broken or "")
        whole = not self._late and not broken and trouble is None
        facts = replace(facts, trouble=trouble, evidence=found, whole=whole, broken=broken)
        return facts, tpm, self._observed(found if whole else None, observation)

    def _read_on(self, descriptor: int, evidence: Evidence) -> None:
        """Everything that is in the list by now, or as much as there is time for."""
        deadline = time.monotonic() + self._sought.patience.list_seconds
        while data := os.read(descriptor, PIECE_BYTES):
            evidence.feed(data)
            self._progress(evidence.reader.records)
            if time.monotonic() > deadline:
                self._late = True
                return

    # -- the TPM ---------------------------------------------------------------------------

    def _banks(self, kernel: bool) -> TpmFacts:
        """Which banks there are; a list in a file may be another host's."""
        enabled = self._sought.tpm
        if not enabled or not kernel:
            return TpmFacts(enabled)
        try:
            names = bounded(self._sought.patience.tpm_seconds, self._tpm.banks)
        except (AdapterError, TimeoutError) as error:
            return TpmFacts(enabled, _trouble(error, "TPM"), present=True)
        banks = tuple(BankFacts(name, b"", None, agrees=False) for name in names)
        return TpmFacts(enabled, present=bool(names), banks=banks)

    def _compare(self, tpm: TpmFacts, descriptor: int, evidence: Evidence) -> TpmFacts:
        """PCR 10 of each bank with the replay, as often as it takes to be sure."""
        check = PcrCheck(may_be_unused=not evidence.tpm_at_boot)
        names = [bank.bank for bank in tpm.banks]
        if not names:
            return tpm
        while True:
            try:
                values = bounded(self._sought.patience.tpm_seconds, partial(self._values, names))
            except (AdapterError, TimeoutError) as error:
                return replace(tpm, trouble=_trouble(error, "TPM"))
            reader = evidence.reader
            replayed = {bank: reader.pcr(bank) if _can(bank) else None for bank in names}
            position = reader.records
            wanted = check.read(values, replayed, position)
            reader.watch(wanted)
            self._read_on(descriptor, evidence)
            check.settle(reader.matches, reader.records)
            if not check.retry:
                break
            time.sleep(self._sought.patience.tpm_retry_seconds)
        agreed = {
            bank: replayed[bank] == value or reader.matches.get(bank) is not None
            for bank, value in values.items()
        }
        banks = tuple(BankFacts(bank, value, replayed[bank], agreed[bank]) for bank, value in values.items())
        return replace(tpm, banks=banks, compared_at=position, unused=check.unused)

    def _values(self, banks: list[str]) -> dict[str, bytes]:
        values = {bank: self._tpm.read(bank) for bank in banks}
        return {bank: value for bank, value in values.items() if value is not None}

    # -- the live tables -------------------------------------------------------------------

    def _observation(self) -> Observation | Trouble | None:
        if not self._sought.live:
            return None
        seconds = self._sought.patience.live_seconds

        async def observe() -> Observation:
            async with asyncio.timeout(seconds):
                return await self._observe()

        try:
            return bounded(seconds + 1.0, lambda: asyncio.run(observe()))
        except (AdapterError, OSError) as error:  # TimeoutError is an OSError
            return _trouble(error, "observer")

    def _observed(
        self, evidence: ListEvidence | None, observation: Observation | Trouble | None = None
    ) -> LiveFacts:
        observation = observation or self._observation()
        if observation is None:
            return LiveFacts(enabled=False)
        if isinstance(observation, Trouble):
            return LiveFacts(enabled=True, trouble=observation)
        live = [device for device in observation.devices if device.active is not None]
        unmeasured = None
        if evidence is not None:
            unmeasured = tuple(printable(device.name) for device in live if not _measured(device, evidence))
        version = ".".join(map(str, observation.dm_version))
        return LiveFacts(True, None, version, len(live), unmeasured)


def _measured(device: LiveDevice, evidence: ListEvidence) -> bool:
    """Whether any record is about it, or about one of its name or uuid: kernels drop repetitions."""
    return device.name in evidence.names or device.uuid in evidence.uuids


def _can(bank: str) -> bool:
    return bank in hashlib.algorithms_available


def _trouble(error: Exception, where: str) -> Trouble:
    if isinstance(error, AdapterError):
        return trouble_told(error)
    return Trouble(str(error), where, getattr(error, "errno", 0) or 0)
