"""The kernel's own measurement list in securityfs, read as it grows: `KernelList`.

Source: security/integrity/ima/ima_fs.c and fs/seq_file.c of Linux 6.1 to 7.2.

The reading is in `kernel_list`, the waiting in `count`, blocking calls in `descriptor`, names and what
to do about refusals in `place`, what the service manager opens in `passed`.  None of them parses records,
or decides what a trimmed list means.
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
from dmimad.adapters.ima_list.passed import COUNT_DESCRIPTOR, LIST_DESCRIPTOR, Passed
from dmimad.adapters.ima_list.place import is_kernel_list, kernel_files

__all__ = [
    "BUSY_PATIENCE_SECONDS",
    "COUNT_DESCRIPTOR",
    "DIRECT_READ_BYTES",
    "DIRECT_READ_MAX_RECORDS",
    "FINGERPRINT_BYTES",
    "LIST_DESCRIPTOR",
    "READ_PIECE_BYTES",
    "KernelList",
    "Opener",
    "Passed",
    "is_kernel_list",
    "kernel_files",
    "open_read_only",
]
