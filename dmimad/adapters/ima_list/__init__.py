"""The kernel's own measurement list in securityfs, read as it grows: `KernelList`.

Source: security/integrity/ima/ima_fs.c and fs/seq_file.c of Linux 6.1 to 7.2.

The reading is in `kernel_list`, the waiting in `count`, blocking calls in `descriptor`, names and what
to do about refusals in `place`.  None of them parses records, or decides what a trimmed list means.
"""

from __future__ import annotations

from dmimad.adapters.ima_list.descriptor import FINGERPRINT_BYTES, open_read_only
from dmimad.adapters.ima_list.kernel_list import (
    BUSY_PATIENCE_SECONDS,
    DIRECT_READ_BYTES,
    DIRECT_READ_MAX_RECORDS,
    READ_PIECE_BYTES,
    KernelList,
    Opener,
)
from dmimad.adapters.ima_list.place import is_kernel_list

__all__ = [
    "BUSY_PATIENCE_SECONDS",
    "DIRECT_READ_BYTES",
    "DIRECT_READ_MAX_RECORDS",
    "FINGERPRINT_BYTES",
    "READ_PIECE_BYTES",
    "KernelList",
    "Opener",
    "is_kernel_list",
    "open_read_only",
]
