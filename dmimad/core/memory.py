"""What is only remembered, as one: the histories of the devices and what was told lately.

Source: none; what each of both is, `history` and `recent` say.  Nothing that is decided depends on them: that
what was stored is damaged is told (`Memory.lost`), and they begin anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dmimad.core.change import Change, Description
from dmimad.core.checkpoint import Document, table
from dmimad.core.commit import Stored
from dmimad.core.device import Device
from dmimad.core.errors import MalformedError
from dmimad.core.history import History
from dmimad.core.recent import Recent
from dmimad.core.table import Table

#: Changes that wait to be stored; of more, all that there is replaces what was stored.
MAX_PENDING = 50_000


class Memory:
    """History and recent alerts of one host.

    Args:
        boot: names the boot that they begin in.

    Attributes:
        lost: what was wrong with what was stored; "" if nothing was.
        anew: the next `changes` replace what was stored: they are all there is.
    """

    def __init__(self, boot: str) -> None:
        self.history = History()
        self.recent = Recent()
        self.lost = ""
        self.anew = False
        self._boot = boot
        self._pending: dict[str, Document | None] = {}

    def restore(self, stored: Stored, checkpoint: Document, after: float | None) -> None:
        """Take over what was stored; ``after``: when the list was read last."""
        self._boot = str(checkpoint.get("boot"))
        self.history.after = after
        self.lost = stored.history_lost
        try:
            self.recent.restore(stored.history)
            self.history.restore(stored.history, table(checkpoint.get("history", {})))
        except MalformedError as error:
            self.lost = str(error)

    def start_over(self, boot: str, now: float) -> None:
        """The list is read from its start, in this boot."""
        self.history.start_over(now, rebooted=boot != self._boot)
        self._boot = boot

    def adopt(self, stored: Stored, devices: Iterable[Device], now: float) -> bool:
        """Put what was stored before what is known here; returns whether that can be read.

        What was read once more by this one is no news, but how things are now may be: note that afterwards.
        """
        known, told = History(), Recent()
        try:
            told.restore(stored.history)
            known.restore(stored.history, {})
        except MalformedError as error:
            self.lost = str(error)
            return False
        told.go_on_from(self.recent)
        if stored.checkpoint is None or stored.checkpoint.get("boot") != self._boot:
            known.start_over(now, rebooted=True)
        known.go_on_from(self.history, devices)
        self.history, self.recent = known, told
        return True

    def describe(self, described: Callable[[Change, Table], Description]) -> None:
        """As `History.describe`."""
        self.history.describe(described)

    # -- what is stored --------------------------------------------------------------------

    def changes(self) -> dict[str, Document | None]:
        """Documents of both that changed since the last `committed`; None: gone."""
        changed = {**self._pending, **self._take_changed()}
        if len(changed) > MAX_PENDING:  # most of it is what was forgotten again meanwhile
            self.store_all()
            changed = self._take_changed()
        if self.anew:
            changed = {key: document for key, document in changed.items() if document is not None}
        self._pending = changed
        return changed

    def _take_changed(self) -> dict[str, Document | None]:
        return {**self.history.take_changed(), **self.recent.take_changed()}

    def store_all(self) -> None:
        """All of both is in the next `changes`, and replaces what was stored."""
        self.history.store_all()
        self.recent.store_all()
        self.anew = True

    def committed(self) -> None:
        """The last `changes` are stored."""
        self._pending, self.anew = {}, False
