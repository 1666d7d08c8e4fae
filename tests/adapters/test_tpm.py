"""PCRs as sysfs shows them: right, absent, or something else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmimad.adapters.tpm import MAX_VALUE_BYTES, Tpm
from dmimad.core.errors import AdapterError

SHA1, SHA256 = bytes(range(20)), bytes(range(200, 232))


def show(root: Path, tpm: str, bank: str, text: bytes, pcr: int = 10) -> Path:
    file = root / tpm / f"pcr-{bank}" / str(pcr)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text)
    return file


def as_sysfs(value: bytes) -> bytes:
    return value.hex().upper().encode() + b"\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    show(tmp_path, "tpm0", "sha256", as_sysfs(SHA256))
    show(tmp_path, "tpm0", "sha1", as_sysfs(SHA1))
    (tmp_path / "tpm0" / "power").mkdir()
    (tmp_path / "tpm0" / "tpm_version_major").write_text("2\n")
    return tmp_path


def test_banks_and_values(root: Path) -> None:
    tpm = Tpm(root)
    assert tpm.banks() == ("sha1", "sha256")
    assert tpm.read("sha1") == SHA1
    assert tpm.read("sha256", 10) == SHA256


def test_another_pcr(root: Path) -> None:
    show(root, "tpm0", "sha1", as_sysfs(SHA1[::-1]), pcr=0)
    assert Tpm(root).read("sha1", 0) == SHA1[::-1]


def test_a_value_is_read_anew_each_time(root: Path) -> None:
    tpm = Tpm(root)
    assert tpm.read("sha1") == SHA1
    show(root, "tpm0", "sha1", as_sysfs(SHA1[::-1]))
    assert tpm.read("sha1") == SHA1[::-1]


@pytest.mark.parametrize("text", [SHA1.hex().encode(), b"  " + SHA1.hex().upper().encode() + b" \r\n\n"])
def test_lower_case_and_white_space_around_are_fine(root: Path, text: bytes) -> None:
    show(root, "tpm0", "sha1", text)
    assert Tpm(root).read("sha1") == SHA1


def test_no_tpm(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        assert Tpm(root).banks() == ()
        assert Tpm(root).read("sha256") is None


def test_a_bank_the_tpm_does_not_have(root: Path) -> None:
    assert Tpm(root).read("sha384") is None
    assert Tpm(root).read("../tpm0/pcr-sha1") is None


def test_of_several_tpms_the_first_that_shows_pcrs(tmp_path: Path) -> None:
    (tmp_path / "tpm0").mkdir()
    (tmp_path / "tpmrm0").mkdir()
    show(tmp_path, "tpm10", "sha1", as_sysfs(SHA1[::-1]))
    show(tmp_path, "tpm2", "sha256", as_sysfs(SHA256))
    assert Tpm(tmp_path).banks() == ("sha256",)
    assert Tpm(tmp_path).read("sha256") == SHA256
    assert Tpm(tmp_path).read("sha1") is None


def test_tpms_are_links_in_sysfs(root: Path, tmp_path: Path) -> None:
    sysfs = tmp_path / "class"
    sysfs.mkdir()
    (sysfs / "tpm0").symlink_to(root / "tpm0")
    assert Tpm(sysfs).read("sha1") == SHA1


def test_a_tpm_that_comes_and_goes(root: Path) -> None:
    tpm = Tpm(root)
    (root / "tpm0").rename(root / "gone")
    assert tpm.banks() == ()
    assert tpm.read("sha1") is None
    (root / "gone").rename(root / "tpm0")
    assert tpm.read("sha1") == SHA1


def test_a_bank_this_program_does_not_know_is_given_as_it_is(root: Path) -> None:
    show(root, "tpm0", "sm3_256", as_sysfs(SHA256))
    assert Tpm(root).banks() == ("sha1", "sha256", "sm3_256")
    assert Tpm(root).read("sm3_256") == SHA256


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n", id="blank"),
        pytest.param(as_sysfs(SHA1)[2:], id="too short"),
        pytest.param(as_sysfs(SHA256), id="of another bank"),
        pytest.param(b"g" * 40, id="no digits"),
        pytest.param(b"\xff\0" * 20, id="any bytes"),
        pytest.param("٠".encode() * 20, id="other digits"),
        pytest.param(as_sysfs(SHA1[:10]) + as_sysfs(SHA1[10:]), id="two lines"),
        pytest.param(b"PCR-10: " + as_sysfs(SHA1), id="text in front"),
        pytest.param(as_sysfs(SHA1) + b"0" * 10_000_000, id="endless"),
        pytest.param(b" " * (MAX_VALUE_BYTES + 1) + as_sysfs(SHA1), id="endless blanks"),
    ],
)
def test_what_is_no_value_is_refused_in_one_line(root: Path, text: bytes) -> None:
    file = show(root, "tpm0", "sha1", text)
    with pytest.raises(AdapterError) as refused:
        Tpm(root).read("sha1")
    assert refused.value.where == str(file)
    assert refused.value.remedy
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_bank_without_this_pcr_is_an_error(root: Path) -> None:
    with pytest.raises(AdapterError, match=r"pcr-sha1/99: .*No such file.*; see the kernel's log"):
        Tpm(root).read("sha1", 99)


def test_a_value_that_cannot_be_read_is_an_error(root: Path) -> None:
    file = show(root, "tpm0", "sha1", b"")
    file.unlink()
    file.mkdir()
    with pytest.raises(AdapterError, match="cannot read the TPM's PCRs: Is a directory"):
        Tpm(root).read("sha1")


def test_a_directory_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(AdapterError) as refused:
        Tpm(loop).banks()
    assert refused.value.where == str(loop)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_right_to_read(root: Path) -> None:
    (root / "tpm0").chmod(0)
    try:
        with pytest.raises(AdapterError, match="Permission denied"):
            Tpm(root).banks()
    finally:
        (root / "tpm0").chmod(0o755)


@pytest.mark.skipif(not Path("/sys/class/tpm/tpm0").exists(), reason="this host has no TPM")
def test_this_hosts_own_tpm() -> None:
    tpm = Tpm()
    for bank in tpm.banks():
        assert tpm.read(bank)
