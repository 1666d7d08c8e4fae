"""Which key may speak for which host.

A key file may speak for every host.  In a directory, ``web-1.pub`` and the files of the sub-directory
``web-1/`` may speak for web-1 alone, those of the sub-directory ``any/`` for every host; ``.pem`` is as good
as ``.pub``.

A host that some key may speak for signs: an alert of it that is not signed is invalid.  Alerts of other
hosts may be unsigned, unless signatures are required of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dmimad.adapters.keys import PUBLIC_SUFFIXES, PublicKeys
from dmimad.core.errors import AdapterError
from dmimad.core.verifiability import Status, Verification, verify_event

#: The sub-directory of keys that may speak for every host.
ANY = "any"
#: Entries of one directory of keys.
MAX_ENTRIES = 10_000


class HostKeys:
    """Trusted keys and whom each may speak for.

    Args:
        for_all: keys that may speak for every host.
        for_one: keys that may speak for one host, by its id.
    """

    def __init__(self, for_all: PublicKeys, for_one: Mapping[str, PublicKeys] | None = None) -> None:
        self._for_all = for_all
        self._for_one = dict(for_one or {})
        self._owners = {keyid: host for host, keys in self._for_one.items() for keyid in keys.keyids}

    @classmethod
    def load(cls, paths: Iterable[Path]) -> HostKeys:
        """The keys in files and directories; raises AdapterError if one is not usable, or there is none."""
        files: dict[str | None, list[Path]] = {}
        for path in paths:
            for host, file in _files(path):
                files.setdefault(host, []).append(file)
        for_all = PublicKeys.load(files.pop(None, []))
        return cls(for_all, {host: PublicKeys.load(own) for host, own in files.items() if host is not None})

    @property
    def hosts(self) -> frozenset[str]:
        """Hosts with a key of their own."""
        return frozenset(self._for_one)

    def signs(self, host: str) -> bool:
        """Whether some key may speak for the host, so that its alerts have to be signed."""
        return host in self._for_one or bool(self._for_all.keyids)

    def verify(self, host: str, event: Mapping[str, object]) -> Verification:
        """Whether a key that may speak for ``host`` signed the event; never raises."""
        own = self._for_one.get(host)
        others: list[tuple[str, str]] = []

        def trusted(keyid: str, data: bytes, signature: bytes) -> bool:
            if self._for_all.verify(keyid, data, signature):
                return True
            if own is not None and own.verify(keyid, data, signature):
                return True
            other = self._owners.get(keyid)
            if other is not None and self._for_one[other].verify(keyid, data, signature):
                others.append((keyid, other))
            return False

        verification = verify_event(event, trusted)
        if verification.status is Status.INVALID and not verification.keyid and others:
            keyid, other = others[0]
            return Verification(Status.INVALID, keyid, f"signed with the key of {other}")
        return verification


def _files(path: Path) -> Iterator[tuple[str | None, Path]]:
    """Key files with the host that each may speak for; None: every host."""
    try:
        if not path.is_dir():
            yield None, path
            return
        entries = sorted(path.iterdir())
        if len(entries) > MAX_ENTRIES:
            raise AdapterError(f"more than {MAX_ENTRIES} entries", str(path), "name a directory of keys")
        empty = True
        for entry in entries:
            if entry.is_dir():
                yield (None if entry.name == ANY else entry.name), entry
            elif entry.suffix in PUBLIC_SUFFIXES:
                yield entry.stem, entry
            else:
                continue
            empty = False
    except OSError as error:
        what = (error.strerror or type(error).__name__).lower()
        raise AdapterError(what, str(path), "name public keys, or a directory of them") from error
    if empty:
        remedy = f"put the keys there as HOST{PUBLIC_SUFFIXES[0]}, or into {ANY}/"
        raise AdapterError("no public key in this directory", str(path), remedy)
