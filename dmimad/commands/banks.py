"""The PCR banks of a long list, replayed on a second processor.

A PCR is a chain of hashes over a whole list, which nothing can split; but it needs to know nothing
of what the records say.  So for a long list in a file a second process replays all banks, while the
first one checks every template digest and tracks devices.  The second one extends the list's own
bank with the digests as they are printed: they are what it would have computed, unless the first
one finds a wrong one, and then the banks are replayed again with care.  Short lists and streams are
read by one reader.
"""

from __future__ import annotations

import multiprocessing
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from dmimad.core.errors import AdapterError
from dmimad.core.reader import DEFAULT_BANKS, ListReader

#: Below this a second process costs more than it saves.
_LONG_LIST_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20

Results = tuple[dict[str, str | None], dict[str, int | None]]


@dataclass(frozen=True, slots=True)
class Banks:
    """Which banks are wanted, and who replays them: the caller's reader, or another ``process``."""

    path: str
    size: int
    wanted: tuple[str, ...]
    watch: Mapping[str, bytes]
    limit: int | None
    process: multiprocessing.process.BaseProcess | None = None
    answer: Connection | None = None

    def own_reader(self) -> ListReader:
        """The reader for the calling process."""
        if self.process is None:
            return ListReader(banks=self.wanted, watch=self.watch, limit=self.limit)
        return ListReader(banks=(), limit=self.limit)

    def results(self, reader: ListReader, *, digests_right: bool) -> Results:
        """PCR 10 values in hex (None: not computable) and matches, of all banks, once ``reader`` is done."""
        if self.process is None or self.answer is None:
            return _results(reader, self.wanted)
        try:
            results: Results = self.answer.recv()
        except EOFError as error:
            raise AdapterError("the process that replays the PCR banks ended", "replay") from error
        self.process.join()
        return results if digests_right else _replay(self, verify=True)


def share_banks(path: str, watch: Mapping[str, bytes], limit: int | None) -> Banks:
    """How to replay a list; starts the second process if that is worth it."""
    wanted = tuple(dict.fromkeys((*DEFAULT_BANKS, *watch)))
    banks = Banks(path, _size(path), wanted, watch, limit)
    if banks.size < _LONG_LIST_BYTES or len(os.sched_getaffinity(0)) == 1:
        return banks
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(banks, sender), daemon=True)
    process.start()
    sender.close()
    return Banks(path, banks.size, wanted, watch, limit, process, receiver)


def _size(path: str) -> int:
    """The size of a regular file; 0 for anything else, which can be read only once."""
    try:
        status = Path(path).stat()
    except OSError:
        return 0
    return status.st_size if path != "-" and stat.S_ISREG(status.st_mode) else 0


def _answer(banks: Banks, answer: Connection) -> None:
    try:
        answer.send(_replay(banks, verify=False))
    except (OSError, KeyboardInterrupt):
        return  # the first process meets the same, and says so


def _replay(banks: Banks, *, verify: bool) -> Results:
    reader = ListReader(banks=banks.wanted, watch=banks.watch, limit=banks.limit, verify=verify)
    left = banks.size
    with Path(banks.path).open("rb") as stream:
        while left > 0 and (chunk := stream.read(min(left, _CHUNK_BYTES))):
            left -= len(chunk)
            reader.feed(chunk)
    reader.close()
    return _results(reader, banks.wanted)


def _results(reader: ListReader, banks: tuple[str, ...]) -> Results:
    values = {bank: reader.pcr(bank) for bank in banks}
    return {bank: None if value is None else value.hex() for bank, value in values.items()}, dict(
        reader.matches
    )
