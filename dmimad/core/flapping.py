"""Repeats: alerts of one code about one device that come and go, told as one.

Source: none; the rules are dmimad's own.

Alerts of the same code about the same device (or about none) are a group.  Its firings are counted
until it has been quiet for a window.  One that has fired often within a window is flapping: that is
told, speaks for the whole group from then on, and what else happens in it is counted and not told,
but for a higher severity.  When it has been quiet for a window, what it has come to is told.

A group that has flapped is told by one of its alerts, the speaker.  Those that the speaker stands
for are covered: their end is told when the last of them ends, by the speaker's resolution.  As long as
any of them fires, a new firing that matters as much is told and makes its alert the speaker of all.

Each change costs the same however many groups there are; what is due is found in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from dmimad.core.alert import (
    MAX_SECONDS,
    RANK,
    Alert,
    Notice,
    State,
    Status,
    alert_from_document,
    alert_to_document,
    notice_id,
    shifted,
)
from dmimad.core.checkpoint import integer, items, table
from dmimad.core.errors import MalformedError
from dmimad.core.finding import Severity
from dmimad.core.maintenance import Maintenance, maintenance_document, read_maintenance
from dmimad.core.marks import Marks, key_beside

#: Groups that are counted, and those that flap, at once; the one that has been quiet longest makes room.
MAX_GROUPS = 4096
MAX_FLAPPING = 1024
_PREFIX = key_beside("group", "")


@dataclass(slots=True)
class Group:
    """Alerts of one code about one device.

    Attributes:
        times: of the last firings, as many as decide.
        count, first, last: firings since it was quiet, and the first and last of them.
        moved, moved_by: its last change, and the id of that notice.
        news: something has happened since the last that was to be told.
        speaker: the alert that was heard last for all of them; ``told``, ``maintenance``: with what.
        firing: keys of its alerts that fire; ``covered``: of those the speaker stands for.
    """

    name: str
    times: list[float] = field(default_factory=list)
    count: int = 0
    first: float = 0.0
    last: float = 0.0
    moved: float = 0.0
    moved_by: str = ""
    flapping: bool = False
    news: bool = False
    told: Severity | None = None
    speaker: Alert | None = None
    maintenance: Maintenance | None = None
    firing: set[str] = field(default_factory=set)
    covered: set[str] = field(default_factory=set)


def group_name(alert: Alert) -> str:
    """The group of an alert: devices are told apart by name, as numbers change when one is made again."""
    return f"{alert.finding.code}|{alert.subject or alert.finding.device}"


class Repeats:
    """All groups.

    Attributes:
        threshold: firings within ``window_seconds`` that make a group flap; 0: none ever does, and nothing
            is counted.
    """

    def __init__(self) -> None:
        self.threshold = 0
        self.window_seconds = 600.0
        self._groups: dict[str, Group] = {}
        self._recent: dict[str, None] = {}  # those counted and not flapping, by their last change
        self._flapping: dict[str, None] = {}
        self._covered = Marks("covered")
        self._tried: dict[str, Notice] = {}  # what is to be told of groups, until it is heard
        self._changed: set[str] = set()

    # -- what happens ----------------------------------------------------------------------

    def fired(self, notice: Notice) -> Notice | None:
        """An alert fires, or something is announced: what to tell of it, if anything."""
        group = self._group(notice.alert)
        lasts = notice.alert.state is State.FIRING
        if lasts:
            group.firing.add(notice.alert.key)
        if not (self.threshold or group.flapping or group.covered):
            return notice
        self._count(group, notice)
        if not group.flapping and len(group.times) >= self.threshold > 0:
            group.flapping, group.told = True, None
            self._recent.pop(group.name, None)
            self._flapping[group.name] = None
        if not (group.flapping or group.covered):
            return self._counted(group, notice)
        if lasts:
            self._cover(group, notice.alert.key)
        if group.flapping or (group.told is not None and RANK[notice.severity] < RANK[group.told]):
            return self._if_worse(group, notice)
        return self._try(group, notice)

    def resolved(self, notice: Notice) -> list[Notice]:
        """An alert resolves: what to tell of it."""
        group, key = self._group(notice.alert), notice.alert.key
        group.firing.discard(key)
        covered = key in group.covered
        self._uncover(group, key)
        counted = self._counted(group, notice)
        recent = group.name in self._recent and not self._is_quiet(group, notice.at)
        if group.flapping or recent:
            self._moved(group, notice)
            group.news = True
        told = [counted]
        if covered:
            stands = group.flapping or group.covered
            told = [] if stands else self._farewell(group, notice.at, notice.record)
        if not group.flapping and group.name not in self._recent:
            self._forget(group)
        return told

    def raised(self, notice: Notice) -> Notice | None:
        """An alert that was told as information is in earnest now: what to tell of it, if anything."""
        group = self._group(notice.alert)
        if notice.alert.key in group.covered:
            return self._if_worse(group, notice)
        return self._counted(group, notice)

    def heard(self, notices: Iterable[Notice]) -> None:
        """These are told.  What was to be told before that and is not among them nobody has heard."""
        self._tried = {}
        for notice in notices:
            group = self._groups.get(group_name(notice.alert))
            if group is None or notice.status is Status.RESOLVED:
                continue
            if notice.alert.key in group.covered or (group.flapping and notice.flapping):
                group.speaker, group.told = notice.alert, notice.severity
                group.maintenance = notice.maintenance
                self._changed.add(group.name)
                for key in group.firing:
                    self._cover(group, key)

    def covers(self, alert: Alert) -> bool:
        """Whether the group's speaker stands for this alert."""
        return alert.key in self._covered

    def outweighs(self, notice: Notice) -> bool:
        """Whether the speaker stands for this alert and was told with a higher severity."""
        group = self._groups.get(group_name(notice.alert))
        if group is None or group.told is None or notice.alert.key not in group.covered:
            return False
        return RANK[group.told] > RANK[notice.severity]

    def counted(self, notice: Notice) -> Notice:
        """A notice with its group's numbers."""
        group = self._groups.get(group_name(notice.alert))
        return notice if group is None else self._counted(group, notice)

    # -- time ------------------------------------------------------------------------------

    def quiet(self, now: float, tell: Callable[[str], Notice]) -> list[Notice]:
        """What to tell of groups that have been quiet for long enough.

        Args:
            tell: makes the firing notice of an alert that fires, by its key.
        """
        for name in self._due(self._recent, now, MAX_GROUPS):
            del self._recent[name]
            self._forget(self._groups[name])
        told: list[Notice] = []
        for name in self._due(self._flapping, now, MAX_FLAPPING):
            del self._flapping[name]
            group = self._groups[name]
            group.flapping = False
            told += self._settled(group, tell)
            self._forget(group)
        return told

    def next_due(self) -> float | None:
        """When a group that flaps may have been quiet for long enough."""
        if not self._flapping:
            return None
        moved = self._groups[next(iter(self._flapping))].moved
        return moved + self.window_seconds if self.threshold else moved

    def clock_stepped(self, by: float) -> None:
        """The wall clock was set: everything was as long ago as before."""
        for name in (*self._recent, *self._flapping):
            group = self._groups[name]
            group.times = [shifted(time, by) for time in group.times]
            group.first, group.last = shifted(group.first, by), shifted(group.last, by)
            group.moved = shifted(group.moved, by)
            self._changed.add(name)

    def clock_stepped_back(self, now: float) -> None:
        """The wall clock was set back: nothing happened later than now."""
        for name in (*self._recent, *self._flapping):
            group = self._groups[name]
            if max(group.moved, group.last) > now:
                group.times = [min(time, now) for time in group.times]
                group.moved, group.last = min(group.moved, now), min(group.last, now)
                group.first = min(group.first, group.last)
                self._changed.add(name)

    def _due(self, order: dict[str, None], now: float, limit: int) -> list[str]:
        due: list[str] = []
        for name in order:
            over = len(order) - len(due) > limit
            if not (over or self._is_quiet(self._groups[name], now)):
                break
            if name in self._tried:
                continue  # what is being told of it now comes first
            due.append(name)
        return sorted(due, key=lambda name: (self._groups[name].moved, name))

    def _is_quiet(self, group: Group, now: float) -> bool:
        return not self.threshold or group.moved + self.window_seconds <= now

    # -- one group -------------------------------------------------------------------------

    def _group(self, alert: Alert) -> Group:
        name = group_name(alert)
        return self._groups.setdefault(name, Group(name))

    def _count(self, group: Group, notice: Notice) -> None:
        at = notice.at
        if not group.flapping and self._is_quiet(group, at):
            group.times, group.count = [], 0  # quiet so long that this begins anew
        group.count += 1
        group.first = at if group.count == 1 else group.first
        group.last = at
        times = [time for time in group.times if at - time <= self.window_seconds]
        group.times = [*times, at][-max(self.threshold, 1) :]
        self._moved(group, notice)

    def _moved(self, group: Group, notice: Notice) -> None:
        group.moved, group.moved_by = notice.at, notice.id
        order = self._flapping if group.flapping else self._recent
        order.pop(group.name, None)
        order[group.name] = None
        self._changed.add(group.name)

    def _counted(self, group: Group, notice: Notice) -> Notice:
        if notice.alert.key in group.covered:
            return self._speaking(group, notice)
        lasting = group.flapping or group.covered or not self._is_quiet(group, notice.at)
        if not (group.count and lasting):
            return notice
        return replace(notice, count=group.count, first=group.first, last=group.last)

    def _if_worse(self, group: Group, notice: Notice) -> Notice | None:
        tried = self._tried.get(group.name)
        known = (group.told, None if tried is None else tried.severity)
        told = [RANK[severity] for severity in known if severity is not None]
        if told and RANK[notice.severity] <= max(told):
            group.news = True
            self._changed.add(group.name)
            return None
        return self._try(group, notice)

    def _try(self, group: Group, notice: Notice) -> Notice:
        """To be told for the whole group."""
        self._tried[group.name], group.news = notice, False
        self._changed.add(group.name)
        return self._speaking(group, notice)

    def _speaking(self, group: Group, notice: Notice) -> Notice:
        """A notice that speaks for the group; it must say so until one that said so has been heard."""
        flapping = group.flapping or group.told is None
        return replace(notice, count=group.count, first=group.first, last=group.last, flapping=flapping)

    def _settled(self, group: Group, tell: Callable[[str], Notice]) -> list[Notice]:
        """It flaps no longer: what it has come to, if that is not what was told last."""
        speaker, fired = group.speaker, [tell(key) for key in sorted(group.firing)]
        if not fired:
            return self._farewell(group, group.moved, None)
        notice = max(fired, key=lambda each: (RANK[each.severity], each.alert.changed, each.alert.key))
        same = speaker is not None and (notice.alert.key, notice.alert.occurrence) == (
            speaker.key,
            speaker.occurrence,
        )
        if len(fired) == 1 and same and group.told is notice.severity:
            return []
        self._cover(group, notice.alert.key)
        id_ = notice_id(notice.alert, Status.FIRING, group.moved_by)
        return [self._try(group, replace(notice, id=id_))]

    def _farewell(self, group: Group, at: float, record: int | None) -> list[Notice]:
        """None of those the speaker stands for fires any longer."""
        tried, heard = self._tried.get(group.name), group.speaker is not None and group.told is not None
        told = []
        if group.speaker is not None and heard:
            told += self._end(group, group.speaker, group.maintenance, at, record)
        if tried is not None:  # it speaks, if it is told; whoever does not hear that must not hear its end
            told += self._end(group, tried.alert, tried.maintenance, at, record)
        group.speaker = group.told = group.maintenance = None
        group.news = False
        self._changed.add(group.name)
        return told

    def _end(
        self, group: Group, speaker: Alert, maintenance: Maintenance | None, at: float, record: int | None
    ) -> list[Notice]:
        status = Status.RESOLVED
        again: tuple[str, ...] = ()
        if speaker.state is State.RESOLVED:  # something that happened, and has no end
            if not group.news:
                return []
            status, again, record = Status.FIRING, (group.moved_by,), speaker.finding.record
        notice = Notice(
            notice_id(speaker, status, *again),
            status,
            replace(speaker, state=State.RESOLVED, changed=at),
            at,
            record,
            maintenance=maintenance,
        )
        return [replace(notice, count=group.count, first=group.first, last=group.last)]

    def _cover(self, group: Group, key: str) -> None:
        group.covered.add(key)
        self._covered.put(key, group.name)

    def _uncover(self, group: Group, key: str) -> None:
        group.covered.discard(key)
        self._covered.pop(key)

    def _forget(self, group: Group) -> None:
        """It has been quiet: what was counted matters only as long as the speaker stands for something."""
        if not group.covered:
            group.times, group.count, group.news = [], 0, False
            group.speaker = group.told = group.maintenance = None
        self._changed.add(group.name)
        self._drop_if_blank(group)

    def _drop_if_blank(self, group: Group) -> None:
        kept = group.firing or group.name in self._recent or group.flapping
        if not kept and group.speaker is None:
            self._groups.pop(group.name, None)

    # -- what is stored --------------------------------------------------------------------

    def take_changed(self) -> dict[str, dict[str, object] | None]:
        """Documents that changed since the last call; None: gone."""
        changed: dict[str, dict[str, object] | None] = dict(self._covered.take_changed())
        for name in self._changed:
            group = self._groups.get(name)
            stored = group is not None and (group.count or group.flapping or group.covered)
            changed[_PREFIX + name] = _group_document(group) if group is not None and stored else None
        self._changed = set()
        return changed

    def store_all(self) -> None:
        """Everything is in the next `take_changed`."""
        self._changed |= self._groups.keys()
        self._covered.store_all()

    def restore(self, documents: Mapping[str, Mapping[str, object]], firing: Mapping[str, Alert]) -> None:
        """Take over what was stored; raises MalformedError."""
        groups = [
            _read_group(name[len(_PREFIX) :], document)
            for name, document in documents.items()
            if name.startswith(_PREFIX)
        ]
        for group in sorted(groups, key=lambda group: (group.moved, group.name)):
            self._groups[group.name] = group
            (self._flapping if group.flapping else self._recent)[group.name] = None
        for alert in firing.values():
            self._group(alert).firing.add(alert.key)
        for key, _ in self._covered.restore(documents, lambda key: key in firing):
            self._group(firing[key]).covered.add(key)


def _group_document(group: Group) -> dict[str, object]:
    speaker, maintenance = group.speaker, group.maintenance
    return {
        "times": group.times,
        "count": group.count,
        "moments": [group.first, group.last, group.moved],
        "moved_by": group.moved_by,
        "flapping": group.flapping,
        "news": group.news,
        "told": None if group.told is None else group.told.value,
        "speaker": None if speaker is None else [speaker.key, alert_to_document(speaker)],
        "maintenance": None if maintenance is None else maintenance_document(maintenance),
    }


def _read_group(name: str, document: Mapping[str, object]) -> Group:
    first, last, moved = (*items(document.get("moments")), None, None, None)[:3]
    told, speaker, maintenance = (document.get(name) for name in ("told", "speaker", "maintenance"))
    try:
        severity = None if told is None else Severity(str(told))
    except ValueError as error:
        raise MalformedError("a stored severity is damaged") from error
    return Group(
        name,
        [moment(time) for time in items(document.get("times"))],
        integer(document.get("count")),
        moment(first),
        moment(last),
        moment(moved),
        str(document.get("moved_by")),
        document.get("flapping") is True,
        document.get("news") is True,
        severity,
        None if speaker is None else _read_speaker(speaker),
        None if maintenance is None else read_maintenance(maintenance),
    )


def _read_speaker(stored: object) -> Alert:
    match stored:
        case [str(key), document]:
            return alert_from_document(key, table(document))
    raise MalformedError("a stored alert is damaged")


def moment(stored: object) -> float:
    """A stored time; raises MalformedError."""
    if isinstance(stored, bool) or not isinstance(stored, (int, float)) or not 0 <= stored <= MAX_SECONDS:
        raise MalformedError("a stored time is damaged")
    return float(stored)
