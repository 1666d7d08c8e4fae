"""The records a load would have left, rebuilt from a table the kernel holds live.

Source: ``dm_ima_measure_on_table_load`` in ``drivers/md/dm-ima.c``, Linux 5.15 to 7.2.  Of a live table the
kernel tells exactly the text that a load would measure now, so the SHA-256 over the rebuilt records is its
own table hash, wherever no attribute has moved by itself since (`health`).

Which names the table was loaded under is the caller's to say: the hash contains them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from dmimad.core.device import Dialect
from dmimad.core.event import MEASUREMENT_BUFFER_BYTES, Identity, Metadata, escape
from dmimad.core.observation import LiveDevice, LiveTarget
from dmimad.core.table import Table

#: ``DM_IMA_TARGET_DATA_BUF_LEN`` less its NUL: a target's text is cut there when it is measured.
MAX_TARGET_OWN_TEXT_BYTES = 2047


def version_text(dm_version: tuple[int, int, int], dialect: Dialect) -> bytes:
    """What each record begins with: nothing in the first form of the patches."""
    return b"" if dialect is Dialect.V1 else b"dm_version=%d.%d.%d;" % dm_version


def metadata_text(metadata: Metadata) -> bytes:
    """Device metadata as dm-ima writes it."""
    name, uuid, major, minor, num_targets = metadata
    return b"name=%s,uuid=%s,major=%d,minor=%d,minor_count=1,num_targets=%d;" % (
        escape(name),
        escape(uuid),
        major,
        minor,
        num_targets,
    )


def load_texts(head: bytes, targets: Iterable[LiveTarget], dialect: Dialect) -> tuple[tuple[bytes, ...], int]:
    """The data of a load's records, and how many targets at the end are in none of them (0 or 1)."""
    records: list[bytes] = []
    text, in_record = head, 0
    for index, target in enumerate(targets):
        piece = b"target_index=%d,target_begin=%d,target_len=%d,%s" % (
            index,
            target.begin_sectors,
            target.length_sectors,
            target.text[:MAX_TARGET_OWN_TEXT_BYTES],
        )
        if len(text) + len(piece) >= MEASUREMENT_BUFFER_BYTES:
            records.append(text)
            text, in_record = head, 0
        text += piece
        in_record += 1
    # Before the rework, a record that only the very last target would have opened was forgotten.
    if records and in_record == 1 and dialect is not Dialect.ORDERED:
        return tuple(records), 1
    return (*records, text), 0


def rebuilt(
    live: LiveDevice,
    targets: tuple[LiveTarget, ...],
    identity: Identity,
    dm_version: tuple[int, int, int],
    dialect: Dialect,
) -> Table:
    """A live table as its load under ``identity`` would have been measured."""
    metadata = Metadata(identity.name, identity.uuid, live.major, live.minor, len(targets))
    head = version_text(dm_version, dialect) + metadata_text(metadata)
    texts, unmeasured = load_texts(head, targets, dialect)
    digest = hashlib.sha256(b"".join(texts)).digest()
    return Table(digest, identity.name, identity.uuid, len(targets), texts, None, unmeasured)
