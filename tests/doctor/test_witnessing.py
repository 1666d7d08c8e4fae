"""Checks of what is measured, on hosts laid out in a directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dmimad.adapters.tpm import Tpm
from dmimad.core.errors import AdapterError
from dmimad.doctor.checks import AS_ROOT, Status, verdict
from dmimad.doctor.measuring import measures_at_boot, policy_rule
from tests.core.lists import binary_list, boot, boot_aggregate, buffer, file, replayed
from tests.core.recorded import LISTS, items
from tests.doctor.fake_host import FakeHost, device

BARE = [boot_aggregate(b"pcrs"), file(b"/bin/sh")]


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def lay(host: FakeHost, records: list[object] | None = None, *, seal: bool = True) -> None:
    """Another list, without device-mapper records by default, and the PCR that belongs to it."""
    chosen = BARE if records is None else records
    host.set_list(binary_list(chosen), mode=0o440)  # type: ignore[arg-type]  # Items
    for bank in ("sha1", "sha256") if seal else ():
        host.set_pcr(bank, replayed(chosen, bank))  # type: ignore[arg-type]  # Items


def quiet(host: FakeHost) -> None:
    """Nothing says that device-mapper is measured, nor that it is not."""
    host.write("proc/cmdline", "quiet\n")
    lay(host)


# -- the whole ----------------------------------------------------------------------------


def test_a_good_host_is_fine(host: FakeHost) -> None:
    host.devices = (device(b"linear1"),)
    host.state.joinpath("dmimad.lock").touch()
    lock = host.state.joinpath("dmimad.lock").stat()
    host.write("proc/locks", locked(lock, pid=77))
    hold(host, 77, str(host.list))
    checks = host.examine()
    assert {check.id: check.summary for check in checks.values() if check.status is not Status.FINE} == {}
    assert verdict(tuple(checks.values())) is Status.FINE
    assert checks["ima.dialect"].details["dialect"] == "ordered"
    assert checks["tpm.pcr"].summary == "PCR 10 is what the list leads to (sha1, sha256)"
    assert checks["live.devices"].summary == "measured: each of 1 mapped device"
    assert checks["ima.trimming"].summary == "prevented: the daemon (pid 77) holds the list open"
    assert checks["versions"].details["device_mapper"] == "4.50.0"


@pytest.mark.parametrize("name", LISTS)
def test_recorded_lists_are_sound(tmp_path: Path, name: str) -> None:
    host = FakeHost(tmp_path, name, name.rpartition("-")[2].replace("v1", "6.1") + ".0-test")
    checks = host.examine()
    assert checks["ima.list"].status is Status.FINE, checks["ima.list"]
    assert checks["ima.policy"].status is Status.FINE
    assert checks["tpm.pcr"].status is Status.FINE
    overflows = 2 if name.startswith("systematic") and not name.endswith("7.2") else 0
    assert checks["ima.dialect"].details["unmeasured_targets"] == overflows
    assert checks["ima.dialect"].status is (Status.ADVICE if overflows else Status.FINE)


# -- the list -----------------------------------------------------------------------------


def no_securityfs(host: FakeHost) -> None:
    (host.root / "sys/kernel/security").rename(host.root / "sys/kernel/elsewhere")


def no_ima(host: FakeHost) -> None:
    host.ima.rename(host.root / "sys/kernel/ima")


def no_ima_built(host: FakeHost) -> None:
    host.configure("CONFIG_INTEGRITY=y\n")
    no_securityfs(host)


def no_mirror(host: FakeHost) -> None:
    host.set("source", path=str(host.root / "mirror"))


def empty(host: FakeHost) -> None:
    host.set_list(b"")


def no_list(host: FakeHost) -> None:
    host.set_list(b"hello world, this is no measurement list at all; " * 10)


def edited(host: FakeHost) -> None:
    data = bytearray(host.list.read_bytes())
    data[-2] ^= 1
    host.set_list(bytes(data))


def pipe(host: FakeHost) -> None:
    os.mkfifo(host.root / "pipe")
    host.set("source", path=str(host.root / "pipe"))


@pytest.mark.parametrize(
    ("spoil", "says", "remedy"),
    [
        (no_securityfs, "securityfs is not mounted", "mount -t securityfs"),
        (no_ima, "has no IMA", "CONFIG_IMA=y"),
        (no_ima_built, "has no IMA (/proc/config.gz)", "CONFIG_IMA=y"),
        (no_mirror, "no such file", "what mirrors a list there"),
        (empty, "empty", "where this one comes from"),
        (no_list, "not an IMA measurement list", "dmimad replay"),
        (edited, "record.template_digest 1", "dmimad replay"),
        (pipe, "not a regular file", "source.path"),
    ],
)
def test_a_list_that_cannot_be_used(
    host: FakeHost, spoil: Callable[[FakeHost], None], says: str, remedy: str
) -> None:
    spoil(host)
    check = host.examine()["ima.list"]
    assert check.status is Status.PROBLEM
    assert says in check.summary
    assert remedy in check.remedy


@pytest.mark.parametrize(
    ("code", "user", "status", "remedy"),
    [
        (errno.EACCES, 1000, Status.UNKNOWN, AS_ROOT),
        (errno.EACCES, 0, Status.PROBLEM, "CAP_DAC_READ_SEARCH"),
        (errno.EBUSY, 0, Status.PROBLEM, "fuser"),
        (errno.EIO, 0, Status.PROBLEM, "source.path"),
    ],
)
def test_a_list_that_the_kernel_refuses(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, code: int, user: int, status: Status, remedy: str
) -> None:
    really = os.open

    def refuse(path: Path, flags: int) -> int:
        if "runtime_measurements" in str(path):
            raise OSError(code, os.strerror(code), str(path))
        return really(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    host.user = user
    checks = host.examine()
    assert checks["ima.list"].status is status
    assert remedy in checks["ima.list"].remedy
    assert checks["live.witness"].status is Status.FINE
    assert checks["tpm.pcr"].status is Status.UNKNOWN


def test_a_mirrored_list_says_nothing_about_this_kernel(host: FakeHost, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.write_bytes(host.list.read_bytes())
    host.set("source", path=str(mirror))
    host.set_pcr("sha256", bytes(32))
    host.configure("")
    checks = host.examine()
    assert checks["ima.list"].status is checks["ima.policy"].status is Status.FINE
    assert checks["tpm.pcr"].summary == "not compared: the list is a mirrored file"
    assert checks["ima.trimming"].status is Status.FINE
    assert checks["ima.deduplication"].status is Status.UNKNOWN


# -- the policy ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "measures"),
    [
        (["measure func=CRITICAL_DATA"], True),
        (["measure func=CRITICAL_DATA label=device-mapper"], True),
        (["measure func=CRITICAL_DATA label=selinux|device-mapper pcr=11"], True),
        (["measure func=CRITICAL_DATA label=selinux"], False),
        (["measure func=CRITICAL_DATA uid=1000"], False),
        (["measure func=CRITICAL_DATA uid=0"], True),
        (["dont_measure func=CRITICAL_DATA label=device-mapper", "measure func=CRITICAL_DATA"], False),
        (["dont_measure func=CRITICAL_DATA label=selinux", "measure func=CRITICAL_DATA"], True),
        (["measure func=FILE_CHECK", "dont_measure fsmagic=0x9fa0"], False),
        (["appraise func=CRITICAL_DATA"], False),
        ([], False),
        (["", "measure"][1:], False),
    ],
)
def test_which_policy_measures_device_mapper(rules: list[str], measures: bool) -> None:
    assert bool(policy_rule(tuple(rules))) is measures


@pytest.mark.parametrize(
    ("line", "measures"),
    [
        ("quiet ima_policy=critical_data", True),
        ('ima_policy="tcb|critical_data" quiet', True),
        ("ima_policy=tcb ima_policy=critical_data", True),
        ("ima_policy=tcb", False),
        ("xima_policy=critical_data critical_data", False),
        ("", False),
    ],
)
def test_which_command_line_measures_device_mapper(line: str, measures: bool) -> None:
    assert measures_at_boot(line) is measures


def rule_for_it(host: FakeHost) -> None:
    quiet(host)
    host.write("sys/kernel/security/integrity/ima/policy", "# dm\nmeasure  func=CRITICAL_DATA\n")


def rule_for_others(host: FakeHost) -> None:
    host.write("sys/kernel/security/integrity/ima/policy", "measure func=FILE_CHECK\n")


def rule_for_others_ever(host: FakeHost) -> None:
    lay(host)
    rule_for_others(host)


def booted(host: FakeHost) -> None:
    lay(host)


def critical_data(host: FakeHost) -> None:
    quiet(host)
    lay(host, list(boot("7.2.0")))


def in_use(host: FakeHost) -> None:
    lay(host)
    host.devices = (device(b"root"),)


def old(host: FakeHost) -> None:
    lay(host)
    host.write("proc/sys/kernel/osrelease", "5.10.0-amd64\n")


@pytest.mark.parametrize(
    ("lay_out", "status", "says"),
    [
        (rule_for_it, Status.FINE, "(measure func=CRITICAL_DATA)"),
        (rule_for_others, Status.PROBLEM, "though it once was"),
        (rule_for_others_ever, Status.PROBLEM, "the IMA policy in force does not measure device-mapper"),
        (booted, Status.FINE, "booted with ima_policy=critical_data"),
        (critical_data, Status.FINE, "critical data is measured since the boot"),
        (in_use, Status.PROBLEM, "none of them was measured"),
        (old, Status.PROBLEM, "Linux 5.10.0-amd64 does not measure"),
        (quiet, Status.ADVICE, "nothing says that device-mapper is measured: no record of it"),
        (no_ima, Status.FINE, "booted with ima_policy=critical_data"),
    ],
)
def test_is_device_mapper_measured(
    host: FakeHost, lay_out: Callable[[FakeHost], None], status: Status, says: str
) -> None:
    lay_out(host)
    check = host.examine()["ima.policy"]
    assert (check.status, says in check.summary) == (status, True), check
    assert bool(check.remedy) is (status is not Status.FINE)


# -- deduplication, dialect, trimming -----------------------------------------------------


def test_deduplication(host: FakeHost) -> None:
    assert host.examine()["ima.deduplication"].status is Status.FINE
    host.set("live", enabled=False)
    check = host.examine()["ima.deduplication"]
    assert check.status is Status.ADVICE
    assert "live.witness" in check.remedy
    host.configure("CONFIG_IMA_DISABLE_HTABLE=y\n")
    check = host.examine()["ima.deduplication"]
    assert (check.status, check.details["config"]) == (Status.FINE, "y")
    (host.root / "proc/config.gz").write_bytes(b"no gzip")
    check = host.examine()["ima.deduplication"]
    assert (check.status, check.remedy) == (Status.UNKNOWN, "")
    host.write(f"boot/config-{host.release}", "CONFIG_IMA=y\n")
    check = host.examine()["ima.deduplication"]
    assert check.details["config_file"] == f"/boot/config-{host.release}"


def test_repeated_records_tell_that_nothing_is_dropped(host: FakeHost) -> None:
    records = items("systematic-7.2")
    again = [*records, records[-1]]
    lay(host, list(again))
    checks = host.examine()
    assert checks["ima.deduplication"].details["repeated"] == 1
    assert checks["ima.deduplication"].summary == "off: every event is in the list (1 repetition in it)"
    assert checks["ima.list"].status is Status.FINE


@pytest.mark.parametrize(
    ("release", "status", "dialect"),
    [
        ("6.1.0", Status.FINE, "legacy"),
        ("7.2.0", Status.FINE, "ordered"),
        ("5.10.0", Status.UNKNOWN, None),
        ("odd", Status.UNKNOWN, None),
    ],
)
def test_dialect_without_records(host: FakeHost, release: str, status: Status, dialect: str | None) -> None:
    lay(host)
    host.write("proc/sys/kernel/osrelease", release)
    check = host.examine()["ima.dialect"]
    assert (check.status, check.details["dialect"]) == (status, dialect)


def locked(lock: os.stat_result, pid: int, *, device: int | None = None) -> str:
    number = lock.st_dev if device is None else device
    where = f"{os.major(number):02x}:{os.minor(number):02x}:{lock.st_ino}"
    return f"1: POSIX  ADVISORY  WRITE 5 {where} 0 EOF\n2: FLOCK  ADVISORY  WRITE {pid} {where} 0 EOF\n"


def hold(host: FakeHost, pid: int, *targets: str) -> None:
    descriptors = host.root / f"proc/{pid}/fd"
    descriptors.mkdir(parents=True)
    for number, target in enumerate(targets):
        (descriptors / str(number)).symlink_to(target)


def test_trimming(host: FakeHost) -> None:
    check = host.examine()["ima.trimming"]
    assert (check.status, "no daemon runs" in check.summary) == (Status.ADVICE, True)
    lock = host.state / "dmimad.lock"
    lock.touch()
    host.write("proc/locks", locked(lock.stat(), pid=5, device=os.makedev(99, 99)))
    assert host.examine()["ima.trimming"].details["daemon_running"] is False
    host.write("proc/5/cmdline", "python\0dmimad\0run")
    check = host.examine()["ima.trimming"]  # as on btrfs, where the numbers differ
    assert (check.status, check.details["daemon_running"]) == (Status.UNKNOWN, True)
    hold(host, 5, "/dev/null")
    check = host.examine()["ima.trimming"]
    assert (check.status, "(pid 5) does not hold" in check.summary) == (Status.ADVICE, True)
    host.set("source", hold_open=False)
    assert "hold_open" in host.examine()["ima.trimming"].remedy
    host.set("source", trim_expected=True)
    assert host.examine()["ima.trimming"].status is Status.FINE
    host.set("source", hold_open=True, trim_expected=False)
    host.list.chmod(0o440)
    assert host.examine()["ima.trimming"].summary == "not possible on Linux 7.2.13-test"
    no_ima(host)
    assert host.examine()["ima.trimming"].status is Status.UNKNOWN


# -- the TPM ------------------------------------------------------------------------------


def test_a_tpm_that_says_something_else(host: FakeHost) -> None:
    host.set_pcr("sha256", b"\1" * 32)
    check = host.examine()["tpm.pcr"]
    assert (check.status, "(sha256)" in check.summary) == (Status.PROBLEM, True)
    banks = check.details["banks"]
    assert isinstance(banks, dict)
    assert (banks["sha1"]["agrees"], banks["sha256"]["agrees"]) == (True, False)
    assert banks["sha256"]["pcr"] == "01" * 32


def test_a_tpm_that_ima_does_not_use(host: FakeHost) -> None:
    lay(host, [boot_aggregate(), *BARE[1:]], seal=False)
    unused = [boot_aggregate().fields[0][:8] + bytes(32), b"boot_aggregate\0", b""]
    item = type(boot_aggregate())(b"ima-sig", tuple(unused))
    lay(host, [item, *BARE[1:]], seal=False)
    for bank, size in (("sha1", 20), ("sha256", 32)):
        host.set_pcr(bank, bytes(size))
    check = host.examine()["tpm.pcr"]
    assert (check.status, "all zeros" in check.summary) == (Status.ADVICE, True)
    lay(host, seal=False)  # here IMA had a TPM when it began
    assert host.examine()["tpm.pcr"].status is Status.PROBLEM


def test_a_trimmed_list_proves_nothing(host: FakeHost) -> None:
    host.set_list(binary_list(items("systematic-7.2")[3:]))
    check = host.examine()["tpm.pcr"]
    assert (check.status, "trimmed" in check.summary) == (Status.ADVICE, True)


def test_no_tpm_and_tpms_that_cannot_be_used(host: FakeHost) -> None:
    host.write("sys/class/tpm/tpm0/pcr-sha256/10", "not hexadecimal\n")
    assert host.examine()["tpm.pcr"].status is Status.PROBLEM
    (host.root / "sys/class/tpm").rename(host.root / "sys/class/none")
    check = host.examine()["tpm.pcr"]
    assert (check.status, check.summary) == (Status.ADVICE, "no TPM")
    host.set("tpm", enabled=False)
    assert "tpm.enabled = false" in host.examine()["tpm.pcr"].summary
    host.set("tpm", enabled=True)
    host.set_pcr("sm9_999", b"\0" * 32)
    assert "no value can be computed for sm9_999" in host.examine()["tpm.pcr"].summary


def test_list_and_pcr_move_while_they_are_read(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    more = [buffer("grows", b"%d" % number) for number in range(3)]
    whole = [*items("systematic-7.2"), *more]
    really, reads = Tpm.read, [0]

    def read(tpm: Tpm, bank: str, pcr: int = 10) -> bytes | None:
        reads[0] += 1
        if reads[0] == 1:  # two more records were measured and extended, a third only measured
            with host.list.open("ab") as stream:
                stream.write(binary_list(more))
            for name in ("sha1", "sha256"):
                host.set_pcr(name, replayed(whole[:-1], name))
        return really(tpm, bank, pcr)

    monkeypatch.setattr(Tpm, "read", read)
    check = host.examine()["tpm.pcr"]
    assert check.status is Status.FINE
    assert check.details["record"] == len(whole) - 3


# -- the live tables ----------------------------------------------------------------------


def test_devices_that_were_never_measured(host: FakeHost) -> None:
    host.devices = (
        device(b"linear1"),
        device(b"from the initrd\x1b[31m"),
        device(b"empty", live=False),
        device(b"renamed since", b"uuid-of-none"),
    )
    checks = host.examine()
    check = checks["live.devices"]
    assert check.status is Status.ADVICE
    assert check.details["unmeasured"] == ["from the initrd\x1b[31m", "renamed since"]
    assert check.summary.startswith("2 of 3 mapped devices never measured: ")
    assert checks["ima.policy"].status is Status.FINE


def test_a_device_made_while_we_look_is_measured_by_then(host: FakeHost) -> None:
    records = items("systematic-7.2")
    host.set_list(binary_list(records[:5]))

    async def observe() -> object:
        with host.list.open("ab") as stream:
            stream.write(binary_list(records[5:]))
        return await FakeHost.observe(host)

    host.observe = observe  # type: ignore[method-assign,assignment]  # the same but for what happens meanwhile
    names = {
        name for name in (b"linear1", b"crypt1") if any(name in item.text for item in records if item.is_dm)
    }
    host.devices = tuple(device(name, minor=number) for number, name in enumerate(sorted(names)))
    assert host.examine()["live.devices"].status is Status.FINE


def test_a_witness_that_cannot_be_had(host: FakeHost) -> None:
    host.devices = AdapterError("nobody listens", "/run/dmimad/live.sock", "start it")
    checks = host.examine()
    assert (checks["live.witness"].status, checks["live.witness"].remedy) == (Status.PROBLEM, "start it")
    assert checks["live.devices"].status is Status.UNKNOWN
    assert checks["ima.deduplication"].status is Status.ADVICE
    host.user = 1000
    check = host.examine()["live.witness"]
    assert (check.status, check.remedy) == (Status.UNKNOWN, AS_ROOT)
    host.user = 0
    host.write("proc/devices", "Block devices:\n  7 loop\n")
    assert host.examine()["live.witness"].status is Status.ADVICE
    host.set("live", enabled=False)
    assert "live.enabled = false" in host.examine()["live.witness"].summary
