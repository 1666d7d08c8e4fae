"""Whether the TPM's PCR is what the list leads to, although the two cannot be read at one instant.

Source: ``ima_add_template_entry()`` in ``security/integrity/ima/ima_queue.c``, Linux 5.15 to 7.2: under one
mutex the kernel appends a record to the list and then extends the PCR.  So at any instant the PCR has the
value of the whole list, or of all but its last record.  A PCR that is read while the replay stands at
record n therefore has the value of the replay at some record from n-1 to m, where m is the list's length
after the read.  One attempt to compare is:

1. While the replay stands still: read the PCR, then `PcrCheck.read` with the value, the replay's value at n
   and the one before it, at n-1.
2. Replay everything that is in the list *after* the PCR was read, and watch for the values that `read` gave
   back.  Then `PcrCheck.settle`, also if there was nothing to replay or to watch for.

A single attempt proves nothing against the host: the list may have been read twice in one, or been about
to be trimmed.  Only `ATTEMPTS` failures in a row make a mismatch, and a later agreement takes it back.

The value at n-1 is a special case.  It proves the list right up to n-1, and on a busy list it is what the
PCR has most of the time.  Only if it stays while no record follows is the last record one that never
reached the TPM; that takes `STALLED_ATTEMPTS`, since the TPM, or the process that measures, may be slow.

A PCR that is all zeros though the list is not empty was never extended: IMA came up before the TPM's driver
and works without it.  Then there is nothing to compare (`PcrCheck.unused`), unless the PCR is known to
have been used.

What it does not do: read a TPM or a list, know the time (wait about `RETRY_SECONDS` before an attempt that
`PcrCheck.retry` asks for), or find out which record is wrong.  After a kexec that did not carry the
list over, the PCR includes records of the former kernel, and nothing here can tell that from tampering.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

#: So many attempts in a row must fail until the PCR is said not to be the list's.
ATTEMPTS: Final = 3
#: So many attempts must find the list's last record not in the PCR, while no record follows it.
STALLED_ATTEMPTS: Final = 10
#: A good time to wait before an attempt that `PcrCheck.retry` asks for; an extend takes some 10 ms.
RETRY_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class PcrMismatch:
    """A PCR that is not what the list leads to.

    Attributes:
        bank: the TPM's bank, as ``sha256``.
        expected: the replay's value at `position`.
        actual: the PCR's value; the replay had it neither there nor since.
        position: records replayed when the PCR was read.
        agreed: records up to which list and PCR were last seen to agree; None if never.
    """

    bank: str
    expected: bytes
    actual: bytes
    position: int
    agreed: int | None


@dataclass(slots=True)
class _Bank:
    """What is known of one bank."""

    agreed: int | None = None  # records up to which list and PCR were seen to agree
    failures: int = 0  # attempts in a row whose value was not found
    stalls: int = 0  # attempts since the last agreement that found one last record not in the PCR
    stalled_at: int = 0
    pending: PcrMismatch | None = None  # what it is if the value is not found in later records
    mismatch: PcrMismatch | None = None

    def agree(self, position: int) -> None:
        self.agreed = position
        self.failures = self.stalls = 0
        self.pending = self.mismatch = None

    def lag(self, found: PcrMismatch) -> None:
        """The PCR has everything but the last record, which the kernel may be about to extend it with."""
        if self.stalls and self.stalled_at == found.position:
            self.stalls += 1
        else:
            self.agree(found.position - 1)
            self.stalls, self.stalled_at = 1, found.position
        if self.stalls >= STALLED_ATTEMPTS:
            self._convict(found)

    def fail(self, found: PcrMismatch) -> None:
        """The value that was pending has not been found."""
        self.pending = None
        self.failures += 1  # and a stalled record stays one: seen again, it does not pardon this
        if self.failures >= ATTEMPTS:
            self._convict(found)

    def _convict(self, found: PcrMismatch) -> None:
        # The first evidence is kept: the values move on with the list, what is wrong stays the same.
        self.mismatch = self.mismatch or found

    @property
    def undecided(self) -> bool:
        return self.mismatch is None and self.failures + self.stalls > 0


class PcrCheck:
    """Compares PCR values with the replay, for one list in one boot; begins with knowing nothing.

    Args:
        may_be_unused: a PCR of all zeros that never agreed is taken for one that IMA does not extend.  False
            if that is known to be wrong, as when ``boot_aggregate`` is not all zeros: a TPM was in use
            when it was recorded, so a PCR of zeros has been reset.
    """

    def __init__(self, *, may_be_unused: bool = True) -> None:
        self._may_be_unused = may_be_unused
        self._banks: dict[str, _Bank] = {}
        self._compared: tuple[str, ...] = ()
        self._unused = False

    @property
    def verified(self) -> bool | None:
        """False if a bank is proven not to be the list's, True if all that are compared were seen to agree.

        None: there is nothing to compare, or nothing is known yet.  A failed attempt alone changes nothing.
        """
        if self.mismatch is not None:
            return False
        agreed = [self._banks[bank].agreed is not None for bank in self._compared]
        return True if agreed and all(agreed) else None

    @property
    def mismatch(self) -> PcrMismatch | None:
        """The proven mismatch; of several banks, the one that was compared first."""
        return next((bank.mismatch for bank in self._banks.values() if bank.mismatch is not None), None)

    @property
    def retry(self) -> bool:
        """The last attempt has ended and decided nothing: another should follow after `RETRY_SECONDS`."""
        banks = [self._banks[bank] for bank in self._compared]
        return all(bank.pending is None for bank in banks) and any(bank.undecided for bank in banks)

    @property
    def unused(self) -> bool:
        """At the last attempt a bank's PCR was all zeros: IMA does not use that TPM, or not that bank."""
        return self._unused

    def read(
        self,
        values: Mapping[str, bytes],
        replayed: Mapping[str, bytes | None],
        position: int,
        *,
        before: Mapping[str, bytes | None] | None = None,
    ) -> dict[str, bytes]:
        """An attempt begins: the PCR was read while the replay stood at record `position`.

        An attempt that was not settled before is forgotten.  Without `before`, a list that grows all the
        time can look wrong though it is not.

        Args:
            values: bank -> the PCR's value; banks that the TPM does not have are left out.
            replayed: bank -> the replay's value; banks that are lost (None) or not replayed are left out.
            position: records replayed, all those before a checkpoint included.
            before: bank -> the replay's value before its last record.
        Returns:
            bank -> value to watch for in the records that follow; empty if all agreed.
        """
        before = before or {}
        compared, watch = [], {}
        self._unused = False
        for name, actual in values.items():
            expected = replayed.get(name)
            if expected is None:
                continue
            bank = self._banks.setdefault(name, _Bank())
            bank.pending = None
            if actual != expected and self._looks_unused(bank, actual):
                self._unused = True
                continue
            compared.append(name)
            found = PcrMismatch(name, expected, actual, position, bank.agreed)
            if actual == expected:
                bank.agree(position)
            elif actual == before.get(name):
                bank.lag(found)
            else:
                bank.pending = found
                watch[name] = actual
        self._compared = tuple(compared)
        return watch

    def settle(self, found: Mapping[str, int | None], position: int) -> None:
        """The attempt ends: what was in the list when the PCR was read has been replayed, or more.

        Args:
            found: bank -> index of the record after which the replay had the value; None if it never had.
            position: records replayed by now; fewer than at `read` if the list began anew: nothing counts.
        """
        for name in self._compared:
            bank = self._banks[name]
            pending, index = bank.pending, found.get(name)
            if pending is None:
                continue
            if position < pending.position:
                bank.pending = None
            elif index is not None:
                bank.agree(index + 1)
            else:
                bank.fail(pending)

    def _looks_unused(self, bank: _Bank, actual: bytes) -> bool:
        never = bank.agreed is None and bank.mismatch is None
        return self._may_be_unused and never and not any(actual)
