"""The PCR banks of a long list, replayed on two processors.

A PCR is a chain of hashes, so one bank cannot be split; two banks can be replayed side by side.
For a long list in a file a second process replays every bank but the list's own, while the first
one verifies the list, replays its own bank and tracks devices.  Short lists and streams are read
by one reader.
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
from dmimad.core.reader import DEFAULT_BANKS, ListReader, detect_format

#: Below this a second process costs more than it saves.
_LONG_LIST_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20
_HEAD_BYTES = 4096

Results = tuple[dict[str, str | None], dict[str, int | None]]


@dataclass(frozen=True, slots=True)
class Banks:
    """Which banks are replayed where: ``own`` by the caller's reader, the others by ``process``."""

    own: tuple[str, ...]
    watch: Mapping[str, bytes]
    limit: int | None
    process: multiprocessing.process.BaseProcess | None = None
    answer: Connection | None = None

    def own_reader(self) -> ListReader:
        """The reader of the list for the calling process."""
        watch = {bank: value for bank, value in self.watch.items() if bank in self.own}
        return ListReader(banks=self.own, watch=watch, limit=self.limit)

    def results(self, reader: ListReader) -> Results:
        """PCR 10 values in hex (None: not computable) and matches, of all banks."""
        pcrs = {bank: _hex(reader.pcr(bank)) for bank in self.own}
        matches = dict(reader.matches)
        if self.process is not None and self.answer is not None:
            try:
                other_pcrs, other_matches = self.answer.recv()
            except EOFError as error:
                raise AdapterError("the process that replays the other banks ended", "replay") from error
            self.process.join()
            pcrs |= other_pcrs
            matches |= other_matches
        order = dict.fromkeys((*DEFAULT_BANKS, *self.watch))
        return {bank: pcrs[bank] for bank in order}, {bank: matches[bank] for bank in self.watch}


def other_banks(path: str, watch: Mapping[str, bytes], limit: int | None) -> Banks:
    """How to replay a list; starts the second process if that is worth it."""
    wanted = tuple(dict.fromkeys((*DEFAULT_BANKS, *watch)))
    size, bank = _look_at(path)
    others = tuple(name for name in wanted if name != bank)
    if size < _LONG_LIST_BYTES or bank not in wanted or len(os.sched_getaffinity(0)) < 2:  # two readers
        return Banks(wanted, watch, limit)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_replay, args=(path, size, others, watch, limit, sender), daemon=True)
    process.start()
    sender.close()
    return Banks((bank,), watch, limit, process, receiver)


def _look_at(path: str) -> tuple[int, str]:
    """Size and own bank of a list in a regular file; 0 and nothing for anything else."""
    try:
        status = Path(path).stat()
        if path == "-" or not stat.S_ISREG(status.st_mode) or status.st_size < _LONG_LIST_BYTES:
            return 0, ""
        with Path(path).open("rb") as stream:
            form = detect_format(stream.read(_HEAD_BYTES), final=False)
    except OSError:
        return 0, ""
    return (0, "") if form is None else (status.st_size, form.bank)


def _replay(
    path: str,
    size: int,
    banks: tuple[str, ...],
    watch: Mapping[str, bytes],
    limit: int | None,
    answer: Connection,
) -> None:
    mine = {bank: value for bank, value in watch.items() if bank in banks}
    reader = ListReader(banks=banks, watch=mine, limit=limit, verify=False)
    try:
        with Path(path).open("rb") as stream:
            while size > 0 and (chunk := stream.read(min(size, _CHUNK_BYTES))):
                size -= len(chunk)
                reader.feed(chunk)
        reader.close()
    except (OSError, KeyboardInterrupt):
        return  # the first process meets the same, and says so
    answer.send(({bank: _hex(reader.pcr(bank)) for bank in banks}, reader.matches))


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
