"""What is not stored yet: commits are joined to one, and messages numbered, until the caller has stored them.

Source: the design's third idea, "one transaction" (`commit`).  A full disk delays and loses nothing.
"""

from __future__ import annotations

from dataclasses import replace

from dmimad.core import cloudevent
from dmimad.core.alert import Notice
from dmimad.core.commit import Commit, Message


class Unstored:
    """All that must be stored.

    Attributes:
        sequence: the number of the last message, over the life of the state.
    """

    def __init__(self) -> None:
        self.sequence = 0
        self._messages: list[Message] = []
        self._pending: Commit | None = None

    def tell(self, notice: Notice, host: str, sign: cloudevent.Sign | None) -> None:
        """Subscribers are to be told this; signed before it is stored, if it is to be signed."""
        self.sequence += 1
        self._messages.append(cloudevent.notice_message(notice, host, self.sequence, sign))

    @property
    def messages(self) -> tuple[Message, ...]:
        """Those of the next commit, in order."""
        return tuple(self._messages)

    def join(self, new: Commit) -> Commit:
        """What is new, with all that is not stored of what was new before.

        Checkpoint, messages and history are those of ``new``.
        """
        former = self._pending
        if former is not None:
            new = replace(
                new,
                devices={**former.devices, **new.devices},
                alerts={**former.alerts, **new.alerts},
                facts=[*former.facts, *new.facts],
                fresh=new.fresh or former.fresh,
            )
        self._pending = new
        return new

    def handed_over(self) -> None:
        """The caller sees to the messages that there are: the next commit has only those that are new."""
        self._messages = []

    def committed(self) -> None:
        """The last commit is stored."""
        self._pending = None
        self._messages = []
