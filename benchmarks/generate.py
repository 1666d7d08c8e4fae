"""Write a valid binary IMA list of any length, with a coherent device-mapper history; go on appending to it.

    python -m benchmarks.generate OUT [--records N] [--dm-share 0.05] [--pcrs DIR] [--append N --every S]

Layout of records: `security/integrity/ima/ima_fs.c` and `ima_template_lib.c` of Linux 6.12, little-endian,
template digests in SHA-1: `boot_aggregate` and `kernel_version` first, then file records (of one template, as
on a real host: `ima-sig`, which Debian's kernels use, or `ima-ng`; or both) among which the records of
`dm_history` are strewn. Prints one JSON object: counts, PCR 10 of both banks, the devices that exist at the
end with both slots. `--pcrs DIR` writes those values as `evmctl ima_measurement --pcrs` reads them. It shares
no code with dmimad and verifies nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Mapping
from hashlib import sha1, sha256
from pathlib import Path
from struct import pack
from typing import BinaryIO

from benchmarks.dm_history import DmRecord, History, Table

PCR = 10
PCR_COUNT = 24
WRITE_RECORDS = 4096
TEMPLATES = ("ima-sig", "ima-ng", "mixed")
KERNEL_VERSION = b"6.12.107+deb13-amd64"


def field(data: bytes) -> bytes:
    """One field of template data: its length and its bytes."""
    return pack("<I", len(data)) + data


def digest_field(digest: bytes) -> bytes:
    """The `d-ng` field of a SHA-256 event digest."""
    return field(b"sha256:\0" + digest)


class ListGenerator:
    """An endless measurement list: each record is accounted in both PCR banks when it is made."""

    def __init__(
        self, *, seed: int = 1, dm_share: float = 0.05, live_devices: int = 32, template: str = TEMPLATES[0]
    ) -> None:
        self.records = 0
        self.dm_records = 0
        self.pcr_sha1 = bytes(20)
        self.pcr_sha256 = bytes(32)
        self._random = random.Random(seed)
        self._dm_share = dm_share
        self._signature_share = {"ima-sig": 1.0, "ima-ng": 0.0, "mixed": 0.5}[template]
        self.history = History(random.Random(seed + 1), live_devices)
        self._changes = self.history.records()

    def take(self, count: int) -> Iterator[bytes]:
        """The next `count` records of the list, as bytes."""
        for _ in range(count):
            if self.records == 0:
                yield self._boot_aggregate()
            elif self.records == 1:
                yield self._buffer(b"kernel_version", KERNEL_VERSION)
            elif self._random.random() < self._dm_share:
                yield self.dm(next(self._changes))
            else:
                yield self._file()

    def dm(self, record: DmRecord) -> bytes:
        """Append this device-mapper record."""
        self.dm_records += 1
        return self._buffer(record.event, record.data)

    def pcrs(self) -> dict[str, str]:
        """PCR 10 as it is now, by bank, in lower-case hex."""
        return {"sha1": self.pcr_sha1.hex(), "sha256": self.pcr_sha256.hex()}

    def summary(self) -> dict[str, object]:
        """What a verifier of this list should come to."""
        devices = [
            {
                "name": device.name.decode(),
                "minor": device.minor,
                "active": _hash(device.active),
                "inactive": _hash(device.staged),
            }
            for device in sorted(self.history.devices.values(), key=lambda device: device.minor)
        ]
        return {
            "records": self.records,
            "dm_records": self.dm_records,
            "pcr": self.pcrs(),
            "devices": devices,
        }

    def _boot_aggregate(self) -> bytes:
        digest = digest_field(self._random.randbytes(32))
        return self._file_record(digest + field(b"boot_aggregate\0"))

    def _buffer(self, name: bytes, data: bytes) -> bytes:
        return self._record(
            b"ima-buf", digest_field(sha256(data).digest()) + field(name + b"\0") + field(data)
        )

    def _file(self) -> bytes:
        package = self._random.getrandbits(10)
        name = b"/usr/lib/x86_64-linux-gnu/package-%d/lib%07d.so.1\0" % (package, self.records)
        return self._file_record(digest_field(self._random.randbytes(32)) + field(name))

    def _file_record(self, data: bytes) -> bytes:
        if self._random.random() >= self._signature_share:
            return self._record(b"ima-ng", data)
        # Unsigned, as nearly all such records are; evmctl would look for the file of each signed one.
        return self._record(b"ima-sig", data + field(b""))

    def _record(self, template: bytes, data: bytes) -> bytes:
        template_digest = sha1(data).digest()
        self.pcr_sha1 = sha1(self.pcr_sha1 + template_digest).digest()
        self.pcr_sha256 = sha256(self.pcr_sha256 + sha256(data).digest()).digest()
        self.records += 1
        return pack("<I", PCR) + template_digest + field(template) + field(data)


def _hash(table: Table | None) -> str | None:
    return table.hash.decode() if table else None


def write_records(generator: ListGenerator, file: BinaryIO, count: int) -> None:
    """Write the next `count` records, in large pieces."""
    while count > 0:
        piece = min(count, WRITE_RECORDS)
        file.write(b"".join(generator.take(piece)))
        count -= piece


def append_live(generator: ListGenerator, path: Path, count: int, every_seconds: float) -> None:
    """Append `count` records one by one, each in one write, as a list mirrored live would grow."""
    with path.open("ab", buffering=0) as file:
        for record in generator.take(count):
            time.sleep(every_seconds)
            file.write(record)


def write_evmctl_pcrs(directory: Path, pcrs: Mapping[str, str]) -> dict[str, Path]:
    """Write each bank as the 24 `PCR-nn: AA BB …` lines that evmctl 1.4 wants, all of them, in order."""
    paths = {}
    for bank, value in pcrs.items():
        paths[bank] = directory / f"pcrs-{bank}"
        values = {PCR: value.upper()}
        lines = [
            f"PCR-{index:02d}: {_spaced(values.get(index, '0' * len(value)))}\n" for index in range(PCR_COUNT)
        ]
        paths[bank].write_text("".join(lines))
    return paths


def _spaced(digits: str) -> str:
    return " ".join(digits[at : at + 2] for at in range(0, len(digits), 2))


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.generate", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("out", type=Path, help="the list to write")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--dm-share", type=float, default=0.05, help="share of device-mapper records, 0 to 1")
    parser.add_argument("--devices", type=int, default=32, help="devices that live at a time")
    parser.add_argument("--template", choices=TEMPLATES, default=TEMPLATES[0], help="of the file records")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pcrs", type=Path, metavar="DIR", help="write PCR files for evmctl there")
    parser.add_argument("--append", type=int, default=0, metavar="N", help="then append N records one by one")
    parser.add_argument(
        "--every", type=float, default=0.1, metavar="SECONDS", help="pause before each of those"
    )
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Command line."""
    arguments = _arguments(argv)
    generator = ListGenerator(
        seed=arguments.seed,
        dm_share=arguments.dm_share,
        live_devices=arguments.devices,
        template=arguments.template,
    )
    with arguments.out.open("wb") as file:
        write_records(generator, file, arguments.records)
    append_live(generator, arguments.out, arguments.append, arguments.every)
    if arguments.pcrs:
        write_evmctl_pcrs(arguments.pcrs, generator.pcrs())
    print(json.dumps(generator.summary()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
