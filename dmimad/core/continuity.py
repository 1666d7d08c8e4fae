"""Whether what was read of a list is all there was: its place, what was trimmed, a gap, the TPM's PCR.

Source: none for what is said; `place` finds where the list is read on, and `pcr` tells whether all of it
leads to what the TPM has.  Records that were deleted after they had been read are a matter of information;
if the place is not found, records may be lost, and only the PCR can tell.

Reads no record: what `Continuity.feed` gives back is the reader's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dmimad.core.checkpoint import Document, integer, items, position_document, read_position, table
from dmimad.core.finding import Severity, make_finding
from dmimad.core.pcr import PcrCheck, PcrMismatch
from dmimad.core.place import Following, Place
from dmimad.core.reader import DEFAULT_BANKS, ListReader
from dmimad.core.supervision import Supervision
from dmimad.core.tracker import Tracker


@dataclass(frozen=True, slots=True)
class _Gap:
    """The place was not found in the list.

    Attributes:
        at: so many records had been read.
        trimmed: so many of them were known to be gone.
    """

    at: int
    trimmed: int


class Continuity:
    """One reading of a list, as far as its beginning and its end are concerned; begins before its first byte.

    Args:
        tracker: is told whether it has every record (`complete`).
        watch: where findings about the list go.

    Attributes:
        trimmed: records known to be gone from the front of the list; all of them had been read.
        trim_expected: that the list is trimmed is no more than information.
    """

    def __init__(self, tracker: Tracker, watch: Supervision) -> None:
        self.trimmed = 0
        self.trim_expected = False
        self._tracker = tracker
        self._watch = watch
        self._place = Place()
        self._pcr = PcrCheck()
        self._gap: _Gap | None = None
        self._gap_asked = False

    # -- the place -------------------------------------------------------------------------

    @property
    def reader(self) -> ListReader:
        """The list's reader; another one once the place was looked for."""
        return self._place.reader

    @property
    def position(self) -> int:
        """Records of the present list that have been processed, those trimmed since included."""
        return self._place.reader.records

    @property
    def broken(self) -> str:
        """Why the list cannot be read on; "" if it can."""
        broken = self._place.reader.broken
        return "" if broken is None else str(broken)

    @property
    def searching(self) -> bool:
        """Whether the place in a trimmed list is being looked for."""
        return self._place.searching

    def feed(self, data: bytes, now: float) -> bytes | None:
        """Take the next bytes of the list; returns what is to be read of them, None if nothing is yet.

        Raises:
            ResumeError: the list is another one.
        """
        return self._follow(self._place.feed(data), now)

    def end(self, now: float) -> bytes | None:
        """The list ends here, for the time being; returns what is still to be read, if there is anything.

        Raises:
            ResumeError: the list ends before the place.
            ListGapError: the place was looked for, and is not in the list.
        """
        return self._follow(self._place.end(), now)

    def _follow(self, following: Following | None, now: float) -> bytes | None:
        if following is None:
            return None
        if following.trimmed is not None:
            self._report_trimmed(following.trimmed, now)
        return following.data

    def recognise_again(self) -> int:
        """The list may be another one now; returns the byte to read it from."""
        self._place = Place(self._place.reader.position)
        return self._place.offset

    def find_place(self) -> None:
        """Records were deleted from the list: what is fed next begins at its first byte."""
        self._place.search()

    # -- what is gone ----------------------------------------------------------------------

    def _report_trimmed(self, number: int, now: float) -> None:
        """The kernel's list begins ``number`` records later than it did."""
        if number <= self.trimmed:
            return  # nothing was: the list was opened anew, or was cut and has been seen so before
        before, self.trimmed = self.trimmed, number
        self._announce_trimmed(before, number, now)

    def _announce_trimmed(self, before: int, number: int, now: float) -> None:
        more = number - before
        text = f"{more} records were deleted from the front of the list; all of them had been read"
        severity = Severity.INFO if self.trim_expected else None
        finding = make_finding(
            "list.trimmed",
            text,
            severity=severity,
            records=str(more),
            expected=f"a list that begins with record {before}",
            actual=f"a list that begins with record {number}",
        )
        self._watch.announce(f"{number}", finding, "", now)

    @property
    def gap(self) -> bool:
        """Whether records may be lost, as far as the PCR has not settled it."""
        return self._gap is not None

    def after_gap(self) -> None:
        """The place was not found: the whole list is new, and what was before it may be lost.

        What is fed next begins at its first byte.  Whether records were lost only the PCR can tell: if the
        replay still leads to it, all that is gone had been read.
        """
        read = self._place.reader.records
        before = self.trimmed if self._gap is None else self._gap.trimmed
        self._gap, self._gap_asked, self.trimmed = _Gap(read, before), False, read
        # That the PCR agreed before the gap says nothing of it; but then it is one that IMA extends.
        self._pcr = PcrCheck(may_be_unused=self._pcr.verified is None)
        self._place.begin_behind_gap()
        self._tracker.complete = False

    def _settle_gap(self, now: float, *, tpm: bool) -> None:
        """Say what the gap was, once the PCR has told or cannot tell."""
        gap, verified = self._gap, self._pcr.verified
        if gap is None or (tpm and not self._gap_asked):  # the PCR was read before the gap
            return
        if verified:
            self._gap = None
            self._tracker.complete = True
            self._watch.cease_list("list.gap", now)
            if gap.at > gap.trimmed:
                self._announce_trimmed(gap.trimmed, gap.at, now)
        elif verified is False or not self._pcr.retry:
            reason = "the PCR shows that some were" if verified is False else "without a TPM nobody can tell"
            text = f"the last record read ({gap.at - 1}) is not in the list: records may be lost; {reason}"
            self._watch.hold_list(make_finding("list.gap", text, record=gap.at), now)

    # -- the TPM ---------------------------------------------------------------------------

    @property
    def pcr_verified(self) -> bool | None:
        """Whether the list leads to the TPM's PCR; None if that is not known, or there is no TPM."""
        return self._pcr.verified

    def pcr_read(self, values: Mapping[str, bytes]) -> None:
        """PCR 10 was read, bank by bank, after everything in the list had been fed."""
        reader = self._place.reader
        values = {bank: value for bank, value in values.items() if bank in DEFAULT_BANKS}  # those replayed
        replayed = {bank: reader.pcr(bank) for bank in values}
        before = {bank: reader.pcr_before(bank) for bank in values}
        reader.watch(self._pcr.read(values, replayed, reader.records, before=before))
        self._gap_asked = True

    def pcr_settled(self, now: float, *, tpm: bool) -> bool:
        """What was in the list when the PCR was read has been fed; returns whether to try again soon."""
        self._pcr.settle(self._place.reader.matches, self._place.reader.records)
        wrong = self._pcr.mismatch
        if wrong is not None:
            self._hold_mismatch(wrong, now)
        elif self._pcr.verified:  # after a restart a failed attempt proves nothing yet
            self._watch.cease_list("pcr.mismatch", now)
        self._settle_gap(now, tpm=tpm)
        return self._pcr.retry

    def _hold_mismatch(self, wrong: PcrMismatch, now: float) -> None:
        agreed = "never" if wrong.agreed is None else f"up to record {wrong.agreed - 1}"
        finding = make_finding(
            "pcr.mismatch",
            f"the list does not lead to the TPM's PCR 10 ({wrong.bank}); they agreed {agreed}",
            record=wrong.position - 1,
            expected=wrong.expected.hex(),
            actual=wrong.actual.hex(),
            bank=wrong.bank,
        )
        self._watch.hold_list(finding, now)

    # -- what is stored --------------------------------------------------------------------

    def document(self) -> dict[str, object]:
        """As JSON to store."""
        return {
            "position": position_document(self._place.reader.position),
            "trimmed": self.trimmed,
            "gap": None if self._gap is None else [self._gap.at, self._gap.trimmed],
        }

    def restore(self, document: Document) -> int:
        """Take over what was stored; returns the byte to read the list from.  Raises MalformedError."""
        self._place = Place(read_position(table(document.get("position"))))
        self.trimmed = integer(document.get("trimmed", 0))
        self._gap = _read_gap(document.get("gap"))
        return self._place.offset


def _read_gap(stored: object) -> _Gap | None:
    """A gap as it was stored; raises MalformedError."""
    if stored is None:
        return None
    at, trimmed = (*items(stored), None, None)[:2]
    return _Gap(integer(at), integer(trimmed))
