"""Which of the three dialects a list is written in: hints first, then proof.

Source: the history of ``drivers/md/dm-ima.c``; the differences that matter are the columns of
`device.TRANSITIONS` and the records named where `prove` is called.

Event names settle the first form (`Dialect.V1`).  Between the two later ones the dm version is a
hint (distributions backport, and kernels 6.16 to 7.1 say 4.50.0 with the old code), the kernel's
version another; a record that one dialect explains and the other does not settles it, and two
such records for different dialects are a contradiction that no one kernel writes.
"""

from __future__ import annotations

import re

from dmimad.core.checkpoint import Document, integer, items, read_dialect, to_bytes, to_text
from dmimad.core.device import Dialect

#: ``DM_VERSION`` from which a kernel may have the reworked dm-ima.
_REWORK_DM_VERSION = (4, 50)
#: First kernel seen with it.
_REWORK_KERNEL = (7, 2)
_NUMBERS = re.compile(rb"([0-9]{1,4})\.([0-9]{1,4})")


class DialectEvidence:
    """What speaks for which dialect.

    Args:
        forced: read everything in this dialect; proof of another is then a contradiction.
    """

    def __init__(self, forced: Dialect | None = None) -> None:
        self._forced = forced
        self.contradiction = ""
        self._kernel: tuple[int, int] | None = None
        self._reset()

    def _reset(self) -> None:
        self._version: bytes | None = None
        self._first_form: bool | None = None
        self._dm_version: tuple[int, int] | None = None
        self._proven: Dialect | None = None
        self._proof = ""
        self._contradicted = False
        self._settle()

    def new_kernel(self) -> None:
        """Another kernel writes from here on (kexec)."""
        self._kernel = None
        self._reset()

    @property
    def proven(self) -> Dialect | None:
        """The dialect that records have proven, if any."""
        return self._proven

    def document(self) -> dict[str, object]:
        """What is known, as JSON to store."""
        return {
            "kernel": None if self._kernel is None else list(self._kernel),
            "version": None if self._version is None else to_text(self._version),
            "first_form": self._first_form,
            "proven": None if self._proven is None else self._proven.value,
            "proof": self._proof,
            "contradicted": self._contradicted,
        }

    def restore(self, document: Document) -> None:
        """Take a stored `document` in; raises MalformedError."""
        kernel = document.get("kernel")
        if kernel is not None:
            major, minor = (*items(kernel), None, None)[:2]
            self._kernel = (integer(major), integer(minor))
        if document.get("version") is not None:
            self.see_version(to_bytes(document["version"]), first_form=document.get("first_form") is True)
        self._proven = read_dialect(document.get("proven"))
        self._proof = str(document.get("proof", ""))
        self._contradicted = document.get("contradicted") is True
        self.contradiction = ""
        self._settle()

    def see_version(self, version: bytes, *, first_form: bool) -> None:
        """A dm record's event name and ``dm_version``."""
        if version == self._version and first_form is self._first_form:
            return
        if self._first_form is not None and first_form is not self._first_form:
            self._contradict("event names with and without dm_")
        self._version, self._first_form = version, first_form
        match = _NUMBERS.match(version)
        self._dm_version = None if match is None else (int(match[1]), int(match[2]))
        if self._forced is not None and (self._forced is Dialect.V1) is not first_form:
            self._contradict(f"event names that {self._forced} does not use")
        self._settle()

    def see_kernel(self, release: bytes) -> None:
        """The ``kernel_version`` record."""
        match = _NUMBERS.match(release)
        self._kernel = None if match is None else (int(match[1]), int(match[2]))
        self._settle()

    def prove(self, dialect: Dialect, proof: str) -> None:
        """A record that only ``dialect`` explains; LEGACY stands for both older ones."""
        if self._proven is dialect:
            return
        expected = self._forced or self._proven or (Dialect.V1 if self._first_form else None)
        if expected is not None and (expected is Dialect.ORDERED) is not (dialect is Dialect.ORDERED):
            self._contradict(f"{proof}, against {self._proof or expected.value}")
            return
        self._proven, self._proof = dialect, proof
        self._settle()

    def _contradict(self, text: str) -> None:
        if not self._contradicted:
            self._contradicted = True
            self.contradiction = text

    def _settle(self) -> None:
        #: The dialect to read records in.
        self.dialect = self._forced or self._best()

    def _best(self) -> Dialect:
        if self._first_form:
            return Dialect.V1
        if self._proven is not None:
            return self._proven
        if self._dm_version is not None and self._dm_version < _REWORK_DM_VERSION:
            return Dialect.LEGACY
        if (
            self._dm_version == _REWORK_DM_VERSION
            and self._kernel is not None
            and self._kernel < _REWORK_KERNEL
        ):
            return Dialect.LEGACY
        return Dialect.ORDERED
