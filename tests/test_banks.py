"""Long lists: PCR banks replayed by a second process give what one reader gives, honest list or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmimad.commands import banks
from dmimad.commands.banks import Results, share_banks
from dmimad.core.measurement import Fault
from dmimad.core.reader import ListReader
from tests.conftest import CORPUS


def replayed(path: Path, watch: dict[str, bytes], limit: int | None = None) -> tuple[Results, bool]:
    """The results as `replay` gets them, and whether a second process had a part in them."""
    shared = share_banks(str(path), watch, limit)
    reader = shared.own_reader()
    found = [*reader.feed(path.read_bytes()), *reader.close()]
    right = not any(record.fault is Fault.TEMPLATE_DIGEST for record in found)
    return shared.results(reader, digests_right=right), shared.process is not None


@pytest.fixture
def every_list_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banks, "_LONG_LIST_BYTES", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})


@pytest.mark.usefixtures("every_list_is_long")
@pytest.mark.parametrize("limit", [None, 60])
@pytest.mark.parametrize(
    "name",
    ["binary_runtime_measurements", "ascii_runtime_measurements", "binary_runtime_measurements_sha256"],
)
def test_a_second_process_gives_the_same(name: str, limit: int | None) -> None:
    path = CORPUS / "random-7.2" / name
    alone = ListReader(banks=("sha1", "sha256", "sha512"), limit=limit)
    alone.feed(path.read_bytes())
    watch = {"sha256": alone.pcr("sha256") or b"", "sha512": bytes(64)}
    (pcrs, matches), shared = replayed(path, watch, limit)
    assert shared
    assert pcrs == {bank: (alone.pcr(bank) or b"").hex() for bank in ("sha1", "sha256", "sha512")}
    assert matches == {"sha256": alone.records - 1, "sha512": None}


@pytest.mark.usefixtures("every_list_is_long")
def test_a_wrong_digest_is_replayed_with_care(tmp_path: Path) -> None:
    """Printed digests are not trusted once one of them is wrong: the data counts, as with one reader."""
    data = bytearray((CORPUS / "random-6.1" / "binary_runtime_measurements").read_bytes())
    data[10] ^= 1  # in the first record's template digest
    path = tmp_path / "list"
    path.write_bytes(data)
    alone = ListReader()
    assert [record.fault for record in alone.feed(bytes(data)) if record.fault] == [Fault.TEMPLATE_DIGEST]
    (pcrs, _), shared = replayed(path, {})
    assert shared
    assert pcrs == {bank: (alone.pcr(bank) or b"").hex() for bank in ("sha1", "sha256")}


def test_short_lists_and_streams_are_read_by_one_reader() -> None:
    path = CORPUS / "random-6.1" / "binary_runtime_measurements"
    assert not replayed(path, {})[1]
    assert share_banks("-", {}, None).process is None
    assert share_banks("/nonexistent", {}, None).process is None
