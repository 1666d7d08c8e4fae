"""What is approved, as the daemon and `check-config` have it: from files, signed if that is demanded.

Without trusted keys a baseline is what the directory says.  With them it is what `core.signed_baseline`
accepts; what was accepted last is remembered in the store, so that it stays in force while the directory is
not in order, also over a restart, and so that an older version of a file is recognised.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dmimad.adapters.baseline_files import read_baseline, read_signed
from dmimad.adapters.credentials import explained, readable
from dmimad.adapters.store import Store
from dmimad.core.baseline import Baseline
from dmimad.core.cloudevent import Sign
from dmimad.core.errors import AdapterError, BaselineError, SignatureError
from dmimad.core.signed_baseline import ApprovedFile, accept, last_good
from dmimad.core.verifiability import sign_event
from dmimad.settings import Settings

if TYPE_CHECKING:
    from dmimad.adapters.keys import PublicKeys, SigningKey


def trusted_keys(settings: Settings) -> PublicKeys | None:
    """The keys that baselines must be signed with; None if they need not be.  Raises AdapterError."""
    paths = settings.baseline.trusted_keys
    if not paths:
        return None
    from dmimad.adapters.keys import PublicKeys  # noqa: PLC0415  # 9 MB, for those who use signatures

    try:
        return PublicKeys.load(map(Path, paths))
    except AdapterError as error:
        raise _of_setting(error, "baseline.trusted_keys") from error


def signing_key(
    settings: Settings, environ: Mapping[str, str], users: Collection[int] | None = None
) -> SigningKey | None:
    """The key that alerts are signed with; None if they are not.  Raises AdapterError.

    It must belong to root or one of the `users`; None: to whoever runs this.
    """
    path = settings.alerts.signing_key_file
    if not path:
        return None
    from dmimad.adapters.keys import SigningKey  # noqa: PLC0415  # as above

    try:
        with explained(environ):
            return SigningKey.load(readable(Path(path), environ), (os.geteuid(),) if users is None else users)
    except AdapterError as error:
        raise _of_setting(error, "alerts.signing_key_file") from error


def signer(settings: Settings, environ: Mapping[str, str]) -> Sign | None:
    """What signs alerts; None if they are not signed.  Raises AdapterError."""
    key = signing_key(settings, environ)
    if key is None:
        return None
    return lambda event: sign_event(event, key.keyid, key.sign)


def _of_setting(error: AdapterError, name: str) -> AdapterError:
    remedy = f"{error.remedy}; set by {name}" if error.remedy else f"set by {name}"
    return AdapterError(error.what, error.where, remedy)


class Baselines:
    """The baseline directory, and what was last accepted in it.

    Args:
        known: what a former process accepted.
        keys: see `trusted_keys`; may be set again.
    """

    def __init__(self, known: Iterable[ApprovedFile], keys: PublicKeys | None) -> None:
        self.keys = keys
        self._known = {file.path: file for file in known}
        self._unsaved = False

    def read(self, directory: Path) -> Baseline:
        """The baseline that is to be in force.

        Raises:
            SignatureError: it is not signed as it must be.
            BaselineError, AdapterError: it is not usable for another reason.
        """
        if self.keys is None:
            return read_baseline(directory)
        try:
            files = read_signed(directory)
        except (BaselineError, AdapterError) as error:
            # Whoever can spoil a file must not get another answer than who changes it.
            raise _unverifiable(error, directory) from error
        accepted = accept(files, str(directory), self._known, self.keys.verify)
        if accepted.files != self._known:
            self._known, self._unsaved = dict(accepted.files), True
        return accepted.baseline

    def last_good(self) -> Baseline | None:
        """What was accepted last, if keys that are trusted now have signed it; else None."""
        if self.keys is None or not any(file.in_force for file in self._known.values()):
            return None
        try:
            return last_good(self._known.values(), self.keys.verify)
        except BaselineError:
            return None

    def save(self, store: Store, *, anew: bool = False) -> None:
        """Remember what was accepted, if it has changed; raises AdapterError, and is to be called again.

        Args:
            anew: into a store that may have nothing of it.
        """
        if self._unsaved or (anew and self._known):
            store.set_approved(self._known.values())
            self._unsaved = False


def _unverifiable(error: BaselineError | AdapterError, directory: Path) -> SignatureError:
    if isinstance(error, BaselineError):
        return SignatureError(error.file, error.reason, key=error.key, line=error.line)
    return SignatureError(str(directory), error.what)
