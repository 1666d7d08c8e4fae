"""The state, whatever becomes of its directory: commits, messages that wait, and trying again.

Source: ``docs/architecture.md``, "When nothing can be stored".

As long as commits can be stored, everything published is in the store's outbox first.  What cannot be
stored is kept here and published from here, after what is in the outbox; what the broker has acknowledged of
it by the time it can be stored is not stored any more.  Each has its number in the outbox from the beginning,
so nobody who looks at messages by number notices where they are.

A directory that cannot be used at the start, and a database that turns out to be damaged, are tried again
until there is a store; then whoever runs this has what it knows put there (`hand_over`), and begins again.
Decides nothing about alerts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dmimad.adapters.store import Store
from dmimad.baselines import Baselines
from dmimad.core.checkpoint import table
from dmimad.core.commit import Commit, Message, Outgoing, Stored
from dmimad.core.errors import AdapterError, DamagedError, MalformedError, StateRefusedError
from dmimad.core.monitor import Monitor
from dmimad.core.signed_baseline import ApprovedFile
from dmimad.core.supervision import OF_STATE

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

#: Messages kept while nothing can be stored, and bytes of them: of more the oldest are dropped.
MAX_KEPT = 10_000
MAX_KEPT_BYTES = 64 << 20
#: Messages of the outbox that are kept for a broker which the settings do not have (yet).
KEPT_WITHOUT_BROKER = 1_000
#: So many more are there before the oldest are dropped, all in one transaction.
_DROPPED_AT_ONCE = 100
#: Try again to store after this long, if that failed.
RETRY_SECONDS = 1.0
#: Try again to open after this long.
OPEN_AGAIN_SECONDS = 2.0


class Storing:
    """The store where there is one, and what could not be stored.

    Args:
        directory: of the state.
        stamp: what is stored with each checkpoint to know its time by.
        log: where to say what happens.

    Raises:
        StateRefusedError: the directory must not be used.
    """

    def __init__(self, directory: Path, stamp: Callable[[], object], log: FilteringBoundLogger) -> None:
        self.problem = ""
        self.publishing = True
        """Whether somebody is to have the messages; if not, only the newest are kept for one who may come."""
        self.reopened = asyncio.Event()
        """There is a store again, of which nothing is known here: call `hand_over`, and begin again."""
        self.approved: tuple[ApprovedFile, ...] = ()
        self.stored = Stored()
        self._directory = directory
        self._stamp = stamp
        self._log = log
        self._again = asyncio.Event()
        self._kept: dict[int, Message] = {}
        self._dropped = 0
        self._next = 1
        self._gone: set[int] = set()  # acknowledged, and still in the store's outbox
        self._topics: frozenset[str] = frozenset()
        self._untold: dict[str, bool] = {}  # topics whose change is not stored: whether they are published
        self._unread = False
        self._settled = False
        self._facts: tuple[tuple[str, bytes], ...] | None = ()
        self._new: Store | None = None
        self._store = self._open()
        self._knows_all = self._store is not None

    def _open(self) -> Store | None:
        """The store, and what it has; None: not now."""
        store = None
        try:
            store = Store.open(self._directory)
            self.approved, self.stored = store.approved(), store.load()
            self._topics, self._next = store.retained(), store.next_seq()
        except AdapterError as error:
            if store is not None:
                store.close()
            if isinstance(error, StateRefusedError):
                raise
            self._fail(error)
            return None
        return store

    def close(self) -> None:
        """Let another daemon have the directory."""
        for store in (self._store, self._new):
            if store is not None:
                store.close()

    # -- commits ---------------------------------------------------------------------------

    def commit(self, monitor: Monitor, baselines: Baselines, now: float) -> bool:
        """Store what has changed, or keep it; returns whether there are new messages."""
        first = self._next
        commit = self._take(monitor)
        if self._write(commit, baselines):
            monitor.committed()
            if not self._settled:
                self._recovered()
                monitor.cease_state(now)
                self.commit(monitor, baselines, now)
        else:
            self._hold(monitor, now)
        return self._next > first

    def _write(self, commit: Commit, baselines: Baselines) -> bool:
        store = self._store
        if store is None:
            return False
        try:
            baselines.save(store)
            self._catch_up(store)
            stamped = {**commit.checkpoint, "clock": self._stamp()}
            messages = tuple(self._kept.values())
            store.commit(replace(commit, checkpoint=stamped, messages=messages), tuple(self._kept))
        except AdapterError as error:
            self._fail(error)
            return False
        self._kept.clear()
        if not self.publishing:
            self._drop_oldest(store)
        return True

    def _drop_oldest(self, store: Store) -> None:
        """With no broker in the settings nobody ever takes them; they have been told to the journal."""
        surplus = store.pending_count() - KEPT_WITHOUT_BROKER
        if surplus >= _DROPPED_AT_ONCE:
            with contextlib.suppress(AdapterError):  # the next commit finds out, and tries this again
                store.acknowledged([row.seq for row in store.pending(0, surplus)])

    def _take(self, monitor: Monitor) -> Commit:
        """What the monitor has, its messages numbered and told to the journal."""
        commit = monitor.commit()
        monitor.handed_over()
        for message in commit.messages:
            self._kept[self._next] = message
            self._next += 1
            self._log_alert(message)
        return commit

    def _hold(self, monitor: Monitor, now: float) -> None:
        """Nothing could be stored: that is an alert, and what is kept has a bound."""
        monitor.hold_state(self.problem, now)
        self._take(monitor)
        size, before = sum(len(message.payload) for message in self._kept.values()), self._dropped
        while len(self._kept) > MAX_KEPT or size > MAX_KEPT_BYTES:
            size -= len(self._kept.pop(next(iter(self._kept))).payload)
            self._dropped += 1
        if before == 0 and self._dropped:
            self._log.error("alerts_dropped", remedy="look at the broker and at the state directory")

    def _fail(self, error: AdapterError) -> None:
        if str(error) != self.problem:
            self.problem = str(error)
            self._log.error("store_failed", problem=self.problem)
        self._settled = False
        if isinstance(error, DamagedError) and self._store is not None:
            self._give_up(self._store)
        self._again.set()

    def _give_up(self, store: Store) -> None:
        """Take from a damaged store what only it has; another will be opened."""
        self._store = None
        kept = self._kept
        try:
            self._kept = {row.seq: row.message for row in store.pending(0, MAX_KEPT)} | kept
        except AdapterError:
            self._log.warning("outbox_unreadable")
        for seq in self._gone:
            self._kept.pop(seq, None)
        try:
            self._facts = store.facts()
        except AdapterError:
            self._facts = None
        self._gone = set()
        store.close()

    def _recovered(self) -> None:
        self._settled = True
        if self.problem:
            self.problem = ""
            self._log.info("store_recovered")

    def _catch_up(self, store: Store) -> None:
        """Store what the publisher has done meanwhile."""
        if self._gone:
            store.acknowledged(self._gone)
            self._gone = set()
        if self._untold:
            published = [topic for topic, there in self._untold.items() if there]
            store.set_retained(published=published, cleared=self._untold.keys() - {*published})
            self._untold = {}

    def _log_alert(self, message: Message) -> None:
        """The journal tells what subscribers are told, also while there is no broker."""
        event = json.loads(message.payload)
        alert = event["data"]
        # That it is over is no problem: who looks for warnings is not to find two for each.
        urgency = alert["severity"] if alert["status"] == "firing" else "info"
        tell = {"info": self._log.info, "warning": self._log.warning}.get(urgency, self._log.error)
        keys = ("code", "severity", "status", "message", "expected", "actual")
        told = {key: alert[key] for key in keys if alert[key]}
        if alert["device"]["name"]:
            told["device"] = alert["device"]["name"]
        tell("alert", **told, alert_id=event["id"], record=alert["evidence"]["record"])

    # -- trying again ----------------------------------------------------------------------

    async def run(self, commit: Callable[[], None]) -> None:
        """Try again what failed, for ever."""
        while True:
            await self._again.wait()
            await asyncio.sleep(RETRY_SECONDS if self._store is not None else OPEN_AGAIN_SECONDS)
            self._again.clear()
            if self._store is not None:
                commit()
            elif self._new is None:
                self._open_again()

    def _open_again(self) -> None:
        store = None
        try:
            store = Store.open(self._directory)
            store.probe()
        except AdapterError as error:
            if store is not None:
                store.close()
            self._fail(error)
            return
        self._new = store
        self.reopened.set()

    def hand_over(self, monitor: Monitor, baselines: Baselines, now: float) -> None:
        """Put what is known here into the store that was opened again.

        If all this began without a stored state and one is found there, this one is the newer: it has read
        the same list.  Of what was stored it takes the alerts it does not know:
        somebody must say that they end.
        """
        store = self._new
        if store is None:
            return
        try:
            self._hand_over(store, monitor, baselines, now)
        except (AdapterError, MalformedError) as error:
            self._log.error("state_not_handed_over", problem=str(error))

    def _hand_over(self, store: Store, monitor: Monitor, baselines: Baselines, now: float) -> None:
        stored = store.load()
        there = {row.message.payload for row in store.pending(0, MAX_KEPT)}
        unknown = not self._knows_all and stored.checkpoint is not None
        if unknown and monitor.up_to_date:
            monitor.adopt(stored, now)
        commit = monitor.everything()
        self._take(monitor)
        messages = [each for each in self._kept.values() if each.payload not in there]
        if unknown and not monitor.up_to_date and stored.checkpoint is not None:
            # The list has not told anything yet, but that the state was away has been.
            told = {key: alert for key, alert in commit.alerts.items() if key.startswith(f"{OF_STATE}|")}
            commit = Commit(stored.checkpoint, alerts=told)
        else:
            commit = self._whole(commit)
        store.commit(replace(commit, messages=messages))
        if not unknown:
            baselines.save(store, anew=True)
        store.set_retained(published=self._topics)

    def _whole(self, commit: Commit) -> Commit:
        """With what was stored before."""
        checkpoint = {**commit.checkpoint, "clock": self._stamp()}
        if self._facts is None:  # what is not known to have been there proves nothing any more
            checkpoint["tracker"] = {**table(checkpoint["tracker"]), "complete": False}
        return replace(commit, checkpoint=checkpoint, facts=(*(self._facts or ()), *commit.facts))

    # -- what the publisher needs ----------------------------------------------------------

    def pending(self, after: int, limit: int) -> list[Outgoing]:
        """The oldest messages with a number above `after`, stored or not."""
        rows = self._stored_rows(after, limit)
        for seq, message in self._kept.items():
            if len(rows) >= limit:
                break
            if seq > after:
                rows.append(Outgoing(seq, message, 0))
        return rows

    def _stored_rows(self, after: int, limit: int) -> list[Outgoing]:
        rows: list[Outgoing] = []
        store = self._store
        while store is not None and len(rows) < limit and store.pending_count() > len(self._gone):
            try:
                batch = store.pending(after, limit)
            except AdapterError as error:
                self._unread = True
                self._fail(error)
                break
            if not batch:
                break
            after = batch[-1].seq
            rows += [row for row in batch if row.seq not in self._gone]
        return rows[:limit]

    def take_unread(self) -> bool:
        """Whether there are messages that could not be read when they were asked for, and can be now."""
        unread = self._unread and not self.problem
        self._unread = self._unread and not unread
        return unread

    def acknowledged(self, seqs: Iterable[int]) -> None:
        """The broker has these."""
        self._gone |= {seq for seq in seqs if self._kept.pop(seq, None) is None}
        if self._store is None or not self._gone:
            return
        try:
            self._store.acknowledged(self._gone)
            self._gone = set()
        except AdapterError as error:
            self._fail(error)

    def rejected(self, seq: int, reason: str, max_attempts: int) -> bool:
        """As the store's; what is not stored is never given up."""
        if seq in self._kept or self._store is None:
            return False
        try:
            return self._store.rejected(seq, reason, max_attempts)
        except AdapterError as error:
            self._fail(error)
            return False

    def retained(self) -> frozenset[str]:
        """Topics that may hold a retained message of this host."""
        return self._topics

    def set_retained(self, *, published: Iterable[str] = (), cleared: Iterable[str] = ()) -> None:
        """As the store's, as far as that is possible."""
        published, cleared = list(published), list(cleared)
        self._topics = (self._topics | {*published}) - {*cleared}
        self._untold |= dict.fromkeys(published, True) | dict.fromkeys(cleared, False)
        if self._store is None:
            return
        try:
            self._catch_up(self._store)
        except AdapterError as error:
            self._fail(error)

    def pending_count(self) -> int:
        """Messages that wait for an acknowledgement."""
        stored = 0 if self._store is None else self._store.pending_count()
        return max(stored - len(self._gone), 0) + len(self._kept)

    def dead_count(self) -> int:
        """Messages that were given up on."""
        return self._dropped + (0 if self._store is None else self._store.dead_count())
