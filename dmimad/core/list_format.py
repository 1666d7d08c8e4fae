"""How a measurement list is printed: ASCII or binary, which bank's digests, which byte order.

Source: ``security/integrity/ima/ima_fs.c``, Linux 5.15 to 7.2, where no list says it of itself: it
is told by the first record.  Nothing is read behind that one, and nothing is checked (`reader`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from dmimad.core.measurement import BANK_OF_DIGEST_SIZE, MAX_PCR, MAX_TEMPLATE_NAME_BYTES, ByteOrder

#: Enough for the header of a first record in any form.
DETECTION_BYTES: Final = 4 + 64 + 4 + MAX_TEMPLATE_NAME_BYTES + 4

_ASCII_START = re.compile(rb"[ 0-9]?[0-9] ([0-9a-f]{40,})")
_TEMPLATE_NAME = re.compile(rb"[a-z0-9][a-z0-9|_-]*")
_ORDERS: tuple[ByteOrder, ...] = ("little", "big")


@dataclass(frozen=True, slots=True)
class ListFormat:
    """How a list is printed: found out once, from its first record."""

    ascii: bool
    digest_bytes: int
    order: ByteOrder

    @property
    def bank(self) -> str:
        """The TPM bank whose digests the list carries."""
        return BANK_OF_DIGEST_SIZE[self.digest_bytes]


def detect_format(head: bytes, *, final: bool) -> ListFormat | None:
    """The format of a list that begins with ``head``; None if that is too short, or no list.

    Binary headers do not say the digest's size or the byte order: the place where a sensible
    template name stands does.
    """
    start = _ASCII_START.match(head)
    if start is not None:
        if len(head) >= 140 or final or b"\n" in head:
            size = len(start[1]) // 2
            return ListFormat(True, size if size in BANK_OF_DIGEST_SIZE else 20, "little")
        return None
    for size in BANK_OF_DIGEST_SIZE:
        for order in _ORDERS:
            if _has_template_name(head, size, order):
                return ListFormat(False, size, order)
    return None


def _has_template_name(head: bytes, size: int, order: ByteOrder) -> bool:
    at = 4 + size
    if len(head) < at + 8:
        return False
    pcr = int.from_bytes(head[:4], order)
    name_bytes = int.from_bytes(head[at : at + 4], order)
    name = head[at + 4 : at + 4 + name_bytes]
    plausible = pcr <= MAX_PCR and 0 < name_bytes <= MAX_TEMPLATE_NAME_BYTES and len(name) == name_bytes
    return plausible and _TEMPLATE_NAME.fullmatch(name) is not None
