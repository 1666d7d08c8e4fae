"""Recorded lists, cut into records, and what is in their records: read without dmimad's own parser.

Only as much of the formats as these tests need; see docs of IMA's ``ima-buf`` template.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

DIGEST_BYTES = 20


def ascii_records(folder: Path) -> list[bytes]:
    """The lines of a recorded ASCII list."""
    return (folder / "ascii_runtime_measurements").read_bytes().splitlines(keepends=True)


def binary_records(folder: Path) -> list[bytes]:
    """The records of the same list's binary form."""
    data, records, at = (folder / "binary_runtime_measurements").read_bytes(), [], 0
    while at < len(data):
        stop = at + 4 + DIGEST_BYTES
        for _ in ("template name", "template data"):
            stop += 4 + int.from_bytes(data[stop : stop + 4], "little")
        records.append(data[at:stop])
        at = stop
    return records


def template_digest(line: bytes) -> str:
    """Of an ASCII record."""
    return line.split(b" ", 2)[1].decode()


def text(line: bytes) -> bytes:
    """What was measured, of an ASCII ``ima-buf`` record."""
    return bytes.fromhex(line.split()[5].decode())


def load_hash(*lines: bytes) -> str:
    """The table hash of a load that these ASCII records are."""
    return "sha256:" + hashlib.sha256(b"".join(map(text, lines))).hexdigest()


_NAME = re.compile(rb"[;=]name=([A-Za-z0-9_.-]+),uuid=")
_HASH = re.compile(rb"_table_hash=(sha256:[0-9a-f]{64})")


def names(lines: Iterable[bytes]) -> list[str]:
    """Device names in ASCII records, those that need no escaping."""
    return _found(_NAME, lines)


def hashes(lines: Iterable[bytes]) -> list[str]:
    """Table hashes in ASCII records."""
    return _found(_HASH, lines)


def _found(pattern: re.Pattern[bytes], lines: Iterable[bytes]) -> list[str]:
    texts = [text(line) for line in lines if b" ima-buf " in line]
    return sorted({match.decode() for each in texts for match in pattern.findall(b";" + each)})


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """`data` cut at these places."""
    edges = [0, *sorted(set(cuts)), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges) if start < stop]
