"""What a command raises when it cannot do what it was asked to; `dmimad.cli` prints it and exits with 2."""

from __future__ import annotations

from dmimad.core.errors import DmimadError


class UsageError(DmimadError):
    """Unusable input or arguments: one line that says what."""
