"""What a list is told by: the first record, as soon as enough of it is there."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import pytest

from dmimad.core.list_format import DETECTION_BYTES, ListFormat, detect_format
from tests.core.lists import BANKS, ORDERS, ascii_record, binary_record, boot_aggregate


@pytest.mark.parametrize("final", [False, True])
def test_binary_is_known_by_its_first_template_name(final: bool) -> None:
    for bank, order, template in itertools.product(BANKS, ORDERS, (b"ima", b"ima-sig")):
        size = hashlib.new(bank).digest_size
        data = binary_record(boot_aggregate(template=template), bank, order)
        known = 4 + size + max(4 + len(template), 8)
        assert detect_format(data[: known - 1], final=final) is None
        for length in (known, len(data)):
            assert detect_format(data[:length], final=final) == ListFormat(False, size, order)


@pytest.mark.parametrize("pcr", [0, 9, 10, 23])
def test_ascii_is_known_by_its_first_line(pcr: int) -> None:
    for bank in BANKS:
        wanted = ListFormat(True, hashlib.new(bank).digest_size, "little")
        data = ascii_record(replace(boot_aggregate(), pcr=pcr), bank)
        assert detect_format(data, final=False) == wanted
        assert detect_format(data[:-1] + b"x" * 100, final=False) == wanted
        assert detect_format(data[:-1], final=True) == wanted
        assert detect_format(data[:100], final=False) is None
        assert detect_format(data[:42], final=True) is None


def test_enough_is_enough() -> None:
    """Whatever the first record is: either it is known by so many bytes, or it is none."""
    longest = replace(boot_aggregate(), template=b"x" * 255)
    for bank, order in itertools.product(BANKS, ORDERS):
        wanted = ListFormat(False, hashlib.new(bank).digest_size, order)
        assert detect_format(binary_record(longest, bank, order)[:DETECTION_BYTES], final=False) == wanted
    assert detect_format(b"\xff" * DETECTION_BYTES, final=False) is None


@pytest.mark.parametrize(("size", "bank"), [(20, "sha1"), (32, "sha256"), (48, "sha384"), (64, "sha512")])
def test_banks_of_digests(size: int, bank: str) -> None:
    assert ListFormat(True, size, "big").bank == bank
