"""The recorded list that the demo lets grow, from the package's own data.

Source: ``data/README.md`` says where and how it was recorded.  Nothing in it is made up or changed: the
test suite compares it with the corpus, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from dmimad.core.reader import ListReader


@dataclass(frozen=True, slots=True)
class Recording:
    """A binary list, the kernel that wrote it, and PCR 10 of that machine's TPM at its end, by bank."""

    data: bytes
    kernel: str
    pcr: Mapping[str, bytes]

    def offset(self, records: int) -> int:
        """How many bytes the first so many records are."""
        reader = ListReader(limit=records)
        reader.feed(self.data)
        return reader.position.offset


def recording() -> Recording:
    """The one there is."""
    folder = files("dmimad.demo").joinpath("data")
    meta = json.loads(folder.joinpath("meta.json").read_text("utf-8"))
    pcr = {bank: bytes.fromhex(value) for bank, value in meta["pcr10"].items()}
    return Recording(folder.joinpath("binary_runtime_measurements").read_bytes(), meta["kernel"], pcr)
