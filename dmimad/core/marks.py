"""What is noted beside alerts: a text under the key of each one concerned, stored one by one.

Source: none.  Noting, looking up and storing cost the same however many there are, so that what is
known of each of many alerts need not be stored again whenever one of them changes.

What a note means is for its owner to say (`flapping`, `storm`, `delivery`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from dmimad.core.errors import MalformedError

#: Begins the keys of all documents that stand among those of the alerts and are none.
_BESIDE = "~"


def is_beside(key: str) -> bool:
    """Whether the document stored under this key is of something beside an alert."""
    return key.startswith(_BESIDE)


def key_beside(kind: str, name: str) -> str:
    """The key to store such a document under."""
    return f"{_BESIDE}{kind}|{name}"


class Marks:
    """Notes of one kind.

    Args:
        kind: begins the keys of the stored documents, which stand among those of the alerts.
    """

    def __init__(self, kind: str) -> None:
        self._prefix = key_beside(kind, "")
        self._marks: dict[str, str] = {}
        self._changed: set[str] = set()

    def __contains__(self, key: object) -> bool:
        return key in self._marks

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._marks))

    def get(self, key: str) -> str | None:
        """The note of an alert."""
        return self._marks.get(key)

    def put(self, key: str, text: str) -> None:
        """Note something of an alert, in place of what was noted."""
        if self._marks.get(key) != text:
            self._marks[key] = text
            self._changed.add(key)

    def pop(self, key: str) -> str | None:
        """Take the note of an alert away."""
        text = self._marks.pop(key, None)
        if text is not None:
            self._changed.add(key)
        return text

    def take_changed(self) -> dict[str, dict[str, object] | None]:
        """Documents that changed since the last call; None: gone."""
        changed, self._changed = self._changed, set()
        return {
            self._prefix + key: {"text": self._marks[key]} if key in self._marks else None for key in changed
        }

    def store_all(self) -> None:
        """All of them are in the next `take_changed`."""
        self._changed |= self._marks.keys()

    def restore(
        self, documents: Mapping[str, Mapping[str, object]], fires: Callable[[str], bool]
    ) -> list[tuple[str, str]]:
        """Take over what was stored; raises MalformedError.

        Args:
            documents: of every kind, by key.
            fires: whether there is such a firing alert; what is noted of others is dropped.

        Returns:
            the notes, by key.
        """
        for name, document in documents.items():
            if not name.startswith(self._prefix):
                continue
            key, text = name[len(self._prefix) :], document.get("text")
            if not isinstance(text, str):
                raise MalformedError("a stored note of an alert is damaged")
            if fires(key):
                self._marks[key] = text
            else:
                self._changed.add(key)
        return sorted(self._marks.items())
