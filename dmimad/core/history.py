"""What has become of each device's two slots over time: which table, since when, and what was said of it.

Source: none; the shape is a promise to other programs (``docs/status.md``).

A device's history goes on under its name: over renames, removals, reboots and restarts of the daemon.  One
change is noted where a slot's table, its witness or its drift is another than before, and where only the
name or the verdict is.  The time is when the daemon learned of it.  What it read or saw afterwards is
marked as `late`: it happened before that time, and after the time `after`, if that is known.

Fingerprints and types are worked out when somebody wants them (`describe`), not for each record that is read;
a table that has come and gone by then has no fingerprint.
Bounded whatever the list says: the oldest changes of a device, and the names that have been gone for
longest, are forgotten first.  Nothing here judges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from dmimad.core.alert import shifted
from dmimad.core.change import (
    ACTIVE,
    BOOT,
    INACTIVE,
    MAX_NAME_BYTES,
    OBSERVED,
    UNTOLD_TYPE,
    Cause,
    Change,
    Description,
    change_from_document,
    change_to_document,
    is_change,
    key_of,
)
from dmimad.core.checkpoint import Document, integer
from dmimad.core.device import Device
from dmimad.core.drift import Judgement, Verdict
from dmimad.core.errors import MalformedError
from dmimad.core.table import Provenance, Table

#: Changes remembered of one device, and of all together.
MAX_CHANGES = 200
MAX_CHANGES_IN_ALL = 20_000


#: Of what is only known to be so: the list was read once more.
_RECALLED = Cause(late=True)


@dataclass(slots=True)
class _Line:
    """The history of one device; ``active`` and ``inactive`` are the last change of each slot."""

    id: int
    name: bytes
    changes: dict[int, Change] = field(default_factory=dict)
    count: int = 0
    active: Change | None = None
    inactive: Change | None = None
    verdict: Verdict = Verdict.UNKNOWN

    def append(self, change: Change) -> None:
        """This is what became of it next."""
        self.changes[change.seq] = change
        self.count, self.name, self.verdict = change.number + 1, change.name, change.verdict
        if change.slot is ACTIVE:
            self.active = change
        else:
            self.inactive = change

    @property
    def filled(self) -> bool:
        return any(last is not None and last.hash is not None for last in (self.active, self.inactive))


class History:
    """The histories of one host's devices.

    Attributes:
        late, after: of what is read and seen from now on, see `Cause`.
        paused: nothing is noted.
    """

    def __init__(self) -> None:
        self.late = True
        self.after: float | None = None
        self.paused = False
        self._seq = 0
        self._boot_seq = 0  # the first of this boot, whose clock it was
        self._lines = 0
        self._size = 0
        self._live: dict[str, _Line] = {}  # by key
        self._changing: dict[int, _Line] = {}  # of those, the ones with changes; the last changed come last
        self._former: dict[bytes, _Line] = {}  # by name, all with changes; those that went last come last
        self._left: dict[int, _Line] = {}  # of those, the ones that were not emptied
        self._undescribed: dict[int, tuple[_Line, Table]] = {}
        self._unstored: dict[int, _Line] = {}
        self._dropped: list[str] = []  # keys of what is stored and is to be no more

    # -- what happens ----------------------------------------------------------------------

    def note(self, device: Device, judgement: Judgement, cause: Cause, at: float) -> None:
        """The device is as it is."""
        if self.paused:
            return
        line = self._live.get(device.key) or self.attach(device)
        name, known = device.name[:MAX_NAME_BYTES], line.count
        as_before = line.verdict is judgement.verdict and line.name == name
        line.name, line.verdict = name, judgement.verdict
        if _differs(line.active, device.active, drift=judgement.drift_active):
            own = cause
            if line.active is None or cause == _RECALLED:
                own = _found(cause, device.active, device.changed_at)
            self._add(line, device.key, ACTIVE, device.active, judgement, own, at)
        if _differs(line.inactive, device.inactive, drift=judgement.drift_inactive):
            own = cause
            if line.inactive is None or cause == _RECALLED:
                own = _found(cause, device.inactive, device.staged_at)
            self._add(line, device.key, INACTIVE, device.inactive, judgement, own, at)
        if not as_before and line.count == known and line.changes:
            slot = INACTIVE if device.active is None and device.inactive is not None else ACTIVE
            table = device.active if slot is ACTIVE else device.inactive
            self._add(line, device.key, slot, table, judgement, cause, at)

    def attach(self, device: Device) -> _Line:
        """The device goes on with the history that its name has, if it has one."""
        line = self._former.pop(device.name[:MAX_NAME_BYTES], None)
        if line is None:
            self._lines += 1
            line = _Line(self._lines, device.name[:MAX_NAME_BYTES])
        else:
            self._left.pop(line.id, None)
            self._changing[line.id] = line
        self._live[device.key] = line
        return line

    def gone(self, device: Device, cause: Cause, at: float) -> None:
        """The device was removed."""
        line = self._live.get(device.key)
        if line is not None and not self.paused:
            self._empty(line, device.key, cause, at)
        self.leave(device.key)

    def leave(self, key: str) -> None:
        """There is no device with this key any more; it may be there with another."""
        line = self._live.pop(key, None)
        if line is None or self._changing.pop(line.id, None) is None:
            return
        self._put_aside(line)

    def start_over(self, at: float, *, rebooted: bool) -> None:
        """The list is read from its start.

        Nothing is left of a former boot's devices.  Of the same boot's everything will be read once more:
        what came of it is noted when that is done (`paused`).
        """
        for key in list(self._live):
            self.leave(key)
        self.paused = not rebooted and self._size > 0
        if rebooted:
            self._end_left(Cause(BOOT, None, True, self.after), at)
            self._boot_seq = self._seq

    def settle(self, at: float) -> None:
        """Nobody has come back under another key."""
        if self._left and not self.paused:
            self._end_left(Cause(late=True), at)

    def clock_stepped(self, by: float) -> None:
        """The wall clock was set: by it was noted what is of this boot."""
        for line in self._lines_kept():
            for seq, change in line.changes.items():
                if seq > self._boot_seq:
                    after = change.cause.after
                    cause = change.cause._replace(after=None if after is None else shifted(after, by))
                    line.changes[seq] = change._replace(at=shifted(change.at, by), cause=cause)
                    self._unstored[seq] = line

    # -- what there is to see --------------------------------------------------------------

    def describe(self, told: Callable[[Change, Table], Description]) -> None:
        """Fill in what was not worked out yet."""
        known: dict[int, Description] = {}
        for seq, (line, table) in self._undescribed.items():
            if id(table) not in known:
                known[id(table)] = told(line.changes[seq], table)
            change = line.changes[seq]._replace(description=known[id(table)])
            line.changes[seq] = change
            if line.active is not None and line.active.seq == seq:
                line.active = change
            elif line.inactive is not None and line.inactive.seq == seq:
                line.inactive = change
        self._undescribed = {}

    def of(self, key: str) -> tuple[tuple[Change, ...], int]:
        """The changes of a device, the oldest first, and how many are not remembered any more."""
        line = self._live.get(key)
        return ((), 0) if line is None else (tuple(line.changes.values()), line.count - len(line.changes))

    def __len__(self) -> int:
        """Changes of all devices."""
        return self._size

    # -- what is stored --------------------------------------------------------------------

    def take_changed(self) -> dict[str, dict[str, object] | None]:
        """Documents that changed since the last call; None: gone."""
        changed: dict[str, dict[str, object] | None] = dict.fromkeys(self._dropped)
        for seq, line in self._unstored.items():
            changed[key_of(seq)] = change_to_document(line.changes[seq])
        self._dropped, self._unstored = [], {}
        return changed

    def store_all(self) -> None:
        """All changes are in the next `take_changed`."""
        self._unstored = {seq: line for line in self._lines_kept() for seq in line.changes}

    def document(self) -> dict[str, object]:
        """The rest, as JSON for the checkpoint."""
        return {"boot": self._boot_seq, "paused": self.paused}

    def restore(self, documents: Mapping[str, Document], rest: Document) -> None:
        """Take over what was stored; devices are to be attached then.

        Raises:
            MalformedError: it is damaged.  Nothing is known then, and it is forgotten in the store, too.
        """
        keys = sorted(key for key in documents if is_change(key))
        try:
            changes = [change_from_document(key, documents[key]) for key in keys]
            lines = _lines_of(changes)
            self._boot_seq, self.paused = integer(rest.get("boot", 0)), rest.get("paused") is True
        except MalformedError:
            self._dropped += keys
            raise
        self._seq = max([self._seq, *(change.seq for change in changes)])
        self._lines = max(lines, default=0)
        self._size = len(changes)
        # Those that are still there are known later; what is empty is gone.
        order = sorted(lines.values(), key=lambda line: (line.filled, next(reversed(line.changes))))
        for line in order:
            self._put_aside(line)
            while len(line.changes) > MAX_CHANGES:
                self._drop_oldest(line)
        while self._size > MAX_CHANGES_IN_ALL:
            self._make_room(line)

    def attach_all(self, devices: Iterable[Device]) -> None:
        """These are there."""
        for device in devices:
            self.attach(device)
        self._changing = dict(
            sorted(self._changing.items(), key=lambda each: next(reversed(each[1].changes)))
        )

    def go_on_from(self, other: History, devices: Iterable[Device]) -> None:
        """These devices are there; `other`, which did not know of this, saw what has become of them."""
        self.late, self.after, self.paused = other.late, other.after, False
        self.attach_all(devices)
        for key, line in self._live.items():
            for change in other.of(key)[0]:
                if not change.cause.late:
                    self._seq += 1
                    again = change._replace(seq=self._seq, line=line.id, number=line.count)
                    self._keep(line, key, again)

    # -- inside ----------------------------------------------------------------------------

    def _add(
        self,
        line: _Line,
        key: str,
        slot: str,
        table: Table | None,
        judgement: Judgement,
        cause: Cause,
        at: float,
    ) -> None:
        self._seq += 1
        seq, description = self._seq, None
        if table is not None:
            description = _known(line, table)
            if description is None:
                self._undescribed[seq] = (line, table)
        change = Change(
            seq,
            line.id,
            line.count,
            key,
            line.name,
            slot,
            None if table is None else table.hash,
            None if table is None else table.provenance,
            judgement.drift_active if slot is ACTIVE else judgement.drift_inactive,
            judgement.verdict,
            cause,
            at,
            description,
        )
        self._keep(line, key, change)

    def _keep(self, line: _Line, key: str, change: Change) -> None:
        line.append(change)
        self._unstored[change.seq] = line
        if self._live.get(key) is line:
            self._changing.pop(line.id, None)
            self._changing[line.id] = line
        self._size += 1
        if len(line.changes) > MAX_CHANGES:
            self._drop_oldest(line)
        while self._size > MAX_CHANGES_IN_ALL:
            self._make_room(line)

    def _lines_kept(self) -> tuple[_Line, ...]:
        return (*self._former.values(), *self._changing.values())

    def _put_aside(self, line: _Line) -> None:
        """Under its name, until somebody comes with it."""
        former = self._former.pop(line.name, None)
        if former is not None:
            self._forget(former)
        self._former[line.name] = line
        if line.filled:
            self._left[line.id] = line

    def _drop_oldest(self, line: _Line) -> None:
        """But the last change of a slot says what is in it."""
        lasting = {last.seq for last in (line.active, line.inactive) if last is not None}
        self._drop(line, next(seq for seq in line.changes if seq not in lasting))

    def _make_room(self, kept: _Line) -> None:
        """Names that are gone go first, then the devices that have not changed for longest."""
        former = next((line for line in self._former.values() if line is not kept), None)
        if former is not None:
            del self._former[former.name]
            self._forget(former)
            return
        line = next((line for line in self._changing.values() if line is not kept), None)
        if line is None:
            self._drop_oldest(kept)
            return
        del self._changing[line.id]
        self._forget(line)

    def _forget(self, line: _Line) -> None:
        self._left.pop(line.id, None)
        for seq in list(line.changes):
            self._drop(line, seq)
        line.active = line.inactive = None

    def _drop(self, line: _Line, seq: int) -> None:
        del line.changes[seq]
        self._undescribed.pop(seq, None)
        self._unstored.pop(seq, None)
        self._dropped.append(key_of(seq))
        self._size -= 1

    def _end_left(self, cause: Cause, at: float) -> None:
        for line in list(self._left.values()):
            if line.id in self._left:  # another's end may have made it be forgotten
                self._empty(line, next(reversed(line.changes.values())).key, cause, at)
        self._left = {}

    def _empty(self, line: _Line, key: str, cause: Cause, at: float) -> None:
        nothing = Judgement(Verdict.UNKNOWN)
        for slot, last in ((ACTIVE, line.active), (INACTIVE, line.inactive)):
            if last is not None and last.hash is not None:
                self._add(line, key, slot, None, nothing, cause, at)
        line.verdict = Verdict.UNKNOWN


def _lines_of(changes: Iterable[Change]) -> dict[int, _Line]:
    """The lines that these changes are of, by id; raises MalformedError."""
    lines: dict[int, _Line] = {}
    for change in changes:
        line = lines.setdefault(change.line, _Line(change.line, change.name))
        if change.number < line.count:
            raise MalformedError("a stored history is damaged")
        line.append(change)
    return lines


def _differs(last: Change | None, table: Table | None, *, drift: bool) -> bool:
    if table is None:
        return last is not None and last.hash is not None
    if last is None or last.hash != table.hash:
        return True
    return last.provenance is not table.provenance or last.drift is not drift


def _known(line: _Line, table: Table) -> Description | None:
    """What is known of the same table from the slot it comes from, if nothing can be added to that."""
    for last in (line.inactive, line.active):
        known = None if last is None or last.hash != table.hash else last.description
        if known is not None and known.fingerprint is not None and UNTOLD_TYPE not in known.types:
            return known
    return None


def _found(cause: Cause, table: Table | None, since: int) -> Cause:
    """Why a slot is as it is that nothing was noted of: it may have been so before."""
    if cause.event == OBSERVED or (cause.record is not None and cause.record == since):
        return cause
    recorded = table is not None and table.provenance is not Provenance.OBSERVED
    return Cause("", since if recorded else None, True, None)
