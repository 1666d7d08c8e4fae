"""``dmimad replay`` as its users meet it: the promised JSON, exit statuses, one line for what is unusable."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dmimad import __version__
from dmimad.cli import main
from dmimad.commands import replay as command
from tests.core.kernel import Kernel, linear, linears
from tests.core.lists import Item, ascii_list, binary_list, buffer, file, replayed, rewritten
from tests.core.recorded import ALL_FORMS, LISTS, Form, binary, folder, items, pcr_values
from tests.core.replaying import replay, replay_items

EVENTS = ("table_load", "device_resume", "device_remove", "table_clear", "device_rename")
HOLES = {"systematic-v1": 2, "systematic-6.1": 2, "systematic-6.12": 2}
RECORD_KEYS = {"type", "index", "event", "device", "active", "inactive", "findings"}
SUMMARY_KEYS = {
    *("type", "records", "dm_records", "violations", "dialect", "devices", "pcr", "pcr_match", "findings"),
    "closing_findings",
}


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished command."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON objects."""
        *lines, rest = self.out.split("\n")
        assert rest == ""
        return [json.loads(line) for line in lines]

    @property
    def summary(self) -> dict[str, Any]:
        """The last object."""
        return self.lines[-1]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The objects of dm records."""
        return [line for line in self.lines if line["type"] == "record"]


Command = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``dmimad replay`` in this process."""

    def call(path: Path | str, *arguments: str, form: str = "jsonl") -> Ended:
        status = main(["replay", str(path), "--format", form, *arguments])
        captured = capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    return call


def program(
    *arguments: str, stdin: bytes = b"", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The program itself, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dmimad.cli", *arguments],
        input=stdin,
        capture_output=True,
        env=environment,
        check=False,
        timeout=60,
    )


def write(directory: Path, listed: Sequence[Item] | bytes, name: str = "list") -> Path:
    """A list in a file."""
    path = directory / name
    path.write_bytes(listed if isinstance(listed, bytes) else binary_list(listed))
    return path


def slot(table: Any) -> dict[str, object] | None:
    if table is None:
        return None
    name, uuid = (text.decode("utf-8", "backslashreplace") for text in (table.name, table.uuid))
    return {
        "hash": "sha256:" + table.hash.hex(),
        "name": name,
        "uuid": uuid,
        "num_targets": table.num_targets,
    }


# -- the promise ---------------------------------------------------------------------------


def test_the_first_records_as_promised(run: Command) -> None:
    """Written out, so that not even the tests' own helpers are between the promise and the output."""
    first, second, third, fourth = run(folder("systematic-6.1") / "ascii_runtime_measurements").lines[:4]
    linear1 = {"name": "linear1", "uuid": "", "major": 254, "minor": 0}
    four = {
        "hash": "sha256:7432020a2a625c608722bc63208e42ec0d68b783970c37a7dc7b3a4b68126f38",
        "name": "linear1",
        "uuid": "",
        "num_targets": 4,
    }
    assert first == {
        "type": "record",
        "index": 2,
        "event": "table_load",
        "device": linear1,
        "active": None,
        "inactive": four,
        "findings": [],
    }
    assert second == {**first, "index": 3, "event": "device_resume", "active": four, "inactive": None}
    assert (third["index"], third["active"], third["inactive"]["num_targets"]) == (4, four, 2)
    assert (fourth["index"], fourth["active"], fourth["inactive"]["num_targets"]) == (5, four, 1)


@pytest.mark.parametrize(("name", "form"), ALL_FORMS, ids=str)
def test_every_recorded_list(run: Command, name: str, form: Form) -> None:
    """One object for each dm record, in order, then the summary; the same whatever the form."""
    ended = run(form.path, *(f"--pcr={bank}={value.hex()}" for bank, value in pcr_values(name).items()))
    dialect, count, dm_count = LISTS[name]
    assert ended.status == (1 if name in HOLES else 0)
    assert ended.err == ""
    expected = replay(binary(name))
    dm = [(index, item.event.removeprefix("dm_")) for index, item in enumerate(items(name)) if item.is_dm]
    assert [(line["index"], line["event"]) for line in ended.records] == dm
    assert all(line.keys() == RECORD_KEYS for line in ended.records)
    steps = [step for step in expected.steps if step.kind is not None]
    for line, step in zip(ended.records, steps, strict=True):
        assert step.device is not None
        assert (line["active"], line["inactive"]) == (slot(step.device.active), slot(step.device.inactive))
        assert line["device"].keys() == {"name", "uuid", "major", "minor"}
        assert [found["code"] for found in line["findings"]] == [found.code for found in step.findings]
        assert all(found.keys() >= {"code", "severity", "message"} for found in line["findings"])
    summary = ended.summary
    assert ended.lines[:-1] == ended.records
    assert summary.keys() == SUMMARY_KEYS
    assert (summary["type"], summary["records"], summary["dm_records"]) == ("summary", count, dm_count)
    assert (summary["violations"], summary["dialect"]) == (0, dialect)
    assert summary["pcr"] == {bank: value.hex() for bank, value in pcr_values(name).items()}
    assert summary["pcr_match"] == {"sha1": count - 1, "sha256": count - 1}
    assert len(summary["devices"]) == len(expected.devices)
    assert summary["findings"].get("target.unmeasured", 0) == HOLES.get(name, 0)
    assert summary["findings"].keys() <= {"target.unmeasured", "target.opaque"}
    assert summary["closing_findings"] == []


def test_the_devices_at_the_end(run: Command) -> None:
    """A VG with everything in it, as dmsetup had it but for what deduplication hides."""
    summary = run(folder("lvm-7.2") / "binary_runtime_measurements").summary
    by_name = {device["name"]: device for device in summary["devices"]}
    assert {"vg0-pool", "vg0-pool-tpool", "vg0-thinvol"} <= by_name.keys()
    pool = by_name["vg0-pool"]
    assert pool.keys() == {"name", "uuid", "major", "minor", "active", "inactive"}
    assert (pool["major"], pool["active"]["num_targets"], pool["inactive"]) == (253, 1, None)
    assert pool["active"]["name"] == "vg0-pool"


def test_after_a_removal_both_slots_are_empty(run: Command) -> None:
    records = run(folder("systematic-7.2") / "binary_runtime_measurements").records
    removals = [line for line in records if line["event"] == "device_remove"]
    assert len(removals) == 42
    assert all(line["active"] is None and line["inactive"] is None for line in removals)
    assert removals[0]["device"] == {"name": "linear1", "uuid": "", "major": 254, "minor": 0}


def test_after_a_clear_nothing_is_staged(run: Command) -> None:
    """Whatever an older kernel's books say (its next removal claims the alias)."""
    for name in ("systematic-v1", "systematic-6.1", "systematic-7.2", "random-6.1"):
        records = run(folder(name) / "binary_runtime_measurements").records
        clears = [line for line in records if line["event"] == "table_clear"]
        assert len(clears) >= 4
        assert all(line["inactive"] is None for line in clears)


def test_names_in_json(run: Command) -> None:
    """UTF-8 as it is, other bytes as backslash, x and two digits."""
    names = {
        line["device"]["name"]
        for line in run(folder("systematic-6.1") / "ascii_runtime_measurements").records
    }
    assert {"naïve-设备", "b\\xe9t\\xff", "sp ace", "a,b;c=d\\e", "=" * 127} <= names


def test_a_device_without_numbers(run: Command, tmp_path: Path) -> None:
    """Only named so far."""
    (line,) = run(write(tmp_path, kernel_with_clear().items)).records
    assert line["device"] == {"name": "bare", "uuid": "", "major": None, "minor": None}


def kernel_with_clear() -> Kernel:
    kernel = Kernel("ordered")
    kernel.create(b"bare")
    kernel.clear(b"bare")
    return kernel


def test_no_dm_records(run: Command, tmp_path: Path) -> None:
    """No dialect, no devices, and nothing wrong."""
    ended = run(write(tmp_path, Kernel().items))
    assert (ended.status, len(ended.lines)) == (0, 1)
    assert (ended.summary["dialect"], ended.summary["devices"], ended.summary["dm_records"]) == (None, [], 0)


# -- options -------------------------------------------------------------------------------


@pytest.mark.parametrize("until", [0, 1, 2, 3, 77, 154, 10_000])
def test_only_the_first_records(run: Command, until: int) -> None:
    form = folder("systematic-6.1") / "binary_runtime_measurements"
    summary = run(form, "--until", str(until)).summary
    listed = items("systematic-6.1")[:until]
    assert summary["records"] == len(listed)
    assert summary["dm_records"] == sum(item.is_dm for item in listed)
    assert summary["pcr"]["sha256"] == replayed(listed, "sha256").hex()


def test_a_pcr_value_on_the_way(run: Command) -> None:
    """`pcr_match` is the record after which the replay had the value."""
    path = folder("systematic-6.12") / "ascii_runtime_measurements_sha256"
    listed = items("systematic-6.12")
    for index in (0, 1, 50, 206):
        values = {bank: replayed(listed[: index + 1], bank).hex() for bank in ("sha1", "sha256", "sha512")}
        ended = run(path, *(f"--pcr={bank.upper()}={value.upper()}" for bank, value in values.items()))
        assert ended.summary["pcr_match"] == dict.fromkeys(values, index)
        assert list(ended.summary["pcr"]) == ["sha1", "sha256", "sha512"]
        assert "pcr.mismatch" not in ended.summary["findings"]


def test_a_pcr_value_that_is_never_reached(run: Command) -> None:
    path = folder("random-6.1") / "binary_runtime_measurements"
    right = pcr_values("random-6.1")["sha1"].hex()
    assert run(path).status == 0
    ended = run(path, "--pcr", f"sha1={right}", "--pcr", "sha256=" + "ab" * 32)
    assert ended.status == 1
    assert ended.summary["pcr_match"] == {"sha1": 121, "sha256": None}
    assert ended.summary["findings"]["pcr.mismatch"] == 1
    (found,) = ended.summary["closing_findings"]
    assert (found["code"], found["severity"], found["record"]) == ("pcr.mismatch", "critical", None)


def test_a_forced_dialect(run: Command) -> None:
    path = folder("systematic-7.2") / "binary_runtime_measurements"
    ended = run(path, "--dialect", "legacy")
    assert (ended.status, ended.summary["dialect"]) == (1, "legacy")
    assert ended.summary["findings"]["state.impossible"] == 1
    assert run(path, "--dialect", "ordered").status == 0


def baseline(directory: Path, text: str) -> str:
    path = directory / "baseline.toml"
    path.write_text("version = 1\n" + text)
    return str(path)


def test_drift_from_a_baseline(run: Command, tmp_path: Path) -> None:
    """A finding at the record that brings the drift, and at the end what is missing."""
    kernel = Kernel("legacy")
    kernel.create(b"root", (linear(0),), b"LVM-1")
    approved = kernel.devices[b"root"].running
    assert approved is not None
    kernel.load(b"root", (linear(8),))
    kernel.resume(b"root")
    kernel.create(b"guest", linears(2))
    kernel.create(b"home", linears(3))
    kernel.remove(b"home")
    text = f"""
[[device]]
name = "root"
hashes = ["sha256:{approved.hex()}"]
[[device]]
name = "home"
[[device]]
name = "data"
required = true
"""
    ended = run(write(tmp_path, kernel.items), "--baseline", baseline(tmp_path, text))
    assert ended.status == 1
    found = [(line["index"], found["code"]) for line in ended.records for found in line["findings"]]
    assert found == [
        (4, "drift.inactive"),
        (5, "drift.active"),
        (6, "device.unexpected"),
        (10, "device.removed"),
    ]
    (missing,) = ended.summary["closing_findings"]
    assert (missing["code"], missing["severity"]) == ("device.missing", "critical")
    assert ended.summary["findings"] == {
        "device.missing": 1,
        "device.removed": 1,
        "device.unexpected": 1,
        "drift.active": 1,
        "drift.inactive": 1,
    }
    text = re.sub(r'name = "data"\nrequired = true', 'name = "*"', text).replace('"home"', '"nobody"')
    other = kernel.devices[b"root"].running
    assert other is not None
    text = text.replace('["sha256:', f'["sha256:{other.hex()}", "sha256:')
    assert run(write(tmp_path, kernel.items[:-1]), "--baseline", baseline(tmp_path, text)).status == 0


def test_a_violated_rule_and_a_rename_from_a_baseline(run: Command, tmp_path: Path) -> None:
    """With the attribute that differs; a rename is told at its record alone."""
    kernel = Kernel("legacy")
    kernel.create(b"root", (linear(0),), b"LVM-1")
    kernel.load(b"root", (linear(8),))
    kernel.resume(b"root")
    kernel.rename(b"root", b"other")
    kernel.resume(b"other")
    text = '[[device]]\nname = "root"\nrequired = true\n[[device.target]]\ntype = "linear"\nstart = 0\n'
    ended = run(write(tmp_path, kernel.items), "--baseline", baseline(tmp_path, text))
    found = [(line["index"], found) for line in ended.records for found in line["findings"]]
    assert [(index, each["code"], each["severity"]) for index, each in found] == [
        (4, "policy.attribute", "warning"),
        (5, "policy.attribute", "critical"),
        (6, "device.renamed", "warning"),
    ]
    difference = {"target": 0, "attribute": "start", "expected": "0", "actual": "8"}
    assert found[1][1]["differences"] == [difference]
    assert ended.summary["closing_findings"] == []  # who is called otherwise is not missing as well


def test_only_the_summary(run: Command) -> None:
    ended = run(folder("systematic-6.1") / "binary_runtime_measurements", "--summary")
    assert (ended.status, len(ended.lines), ended.summary["records"]) == (1, 1, 154)


def test_findings_of_other_records(run: Command, tmp_path: Path) -> None:
    """What is wrong with a record that is no dm record has an object of its own; information has not."""
    kernel = Kernel()
    kernel.items.append(Item(b"ima-ng", (b"sha256:\0" + bytes(32), b"/bin/sh\0"), digest=b"\1" * 20))
    kernel.items.append(Item(b"ima-ng", (b"sha256:\0" + bytes(32), b"/var/log\0"), violation=True))
    ended = run(write(tmp_path, kernel.items))
    assert ended.status == 1
    assert [line["type"] for line in ended.lines] == ["finding", "summary"]
    assert ended.lines[0]["index"] == 2
    assert ended.lines[0]["findings"][0]["code"] == "record.template_digest"
    assert ended.summary["findings"] == {"record.template_digest": 1, "violations.increased": 1}
    assert ended.summary["violations"] == 1


def test_a_list_that_ends_inside_a_record(run: Command, tmp_path: Path) -> None:
    """What is complete is analysed, the rest is a finding."""
    ended = run(write(tmp_path, binary("random-7.2")[:-5]))
    assert ended.status == 1
    assert ended.summary["records"] == 183
    assert ended.summary["findings"]["record.malformed"] == 1
    assert ended.lines[-2]["type"] == "finding"


def test_an_edited_list(run: Command, tmp_path: Path) -> None:
    kernel = Kernel()
    kernel.create(b"root", (linear(0),))
    kernel.items[2] = rewritten(kernel.items[2], b"1:0", b"8:0", fix_event=False, fix_template=False)
    for data in (binary_list(kernel.items), ascii_list(kernel.items, "sha256")):
        ended = run(write(tmp_path, data))
        codes = [found["code"] for line in ended.records for found in line["findings"]]
        assert codes == ["record.template_digest", "record.event_digest", "table.hash_mismatch"]
        assert ended.status == 1


# -- where it is read from -----------------------------------------------------------------


@pytest.mark.parametrize("form", ["ascii_runtime_measurements", "binary_runtime_measurements_sha256"])
def test_standard_input(form: str) -> None:
    data = (folder("random-7.2") / form).read_bytes()
    ended = program("replay", "-", "--format", "jsonl", stdin=data)
    assert (ended.returncode, ended.stderr) == (0, b"")
    whole = program("replay", str(folder("random-7.2") / form), "--format", "jsonl")
    assert ended.stdout == whole.stdout
    assert json.loads(ended.stdout.splitlines()[-1])["records"] == 184


def test_standard_input_with_nothing_in_it() -> None:
    ended = program("replay", "-")
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr == b"dmimad: -: empty; a measurement list has at least one record\n"


@pytest.mark.parametrize("bank", ["sha1", "sha256"])
@pytest.mark.parametrize("edited", [False, True], ids=["honest", "edited"])
def test_a_long_list_has_the_same_banks(tmp_path: Path, bank: str, *, edited: bool) -> None:
    """They are replayed by a second process where there is a second processor."""

    def run(*arguments: str) -> Ended:
        ended = program("replay", *arguments, "--format", "jsonl")
        return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    kernel = Kernel("legacy")
    kernel.create(b"root", (linear(0),))
    listed = [*kernel.items, *(buffer("other", bytes([number]) * (1 << 20)) for number in range(20))]
    if edited:
        listed[9] = rewritten(listed[9], b"\5" * 100, b"\6" * 100, fix_event=True, fix_template=False)
    listed += [file(b"/bin/sh"), file(b"/bin/true")]
    index = len(listed) - 2
    values = {name: replayed(listed[: index + 1], name).hex() for name in ("sha1", "sha256", "sha384")}
    path = str(write(tmp_path, binary_list(listed, bank)))
    ended = run(path, *(f"--pcr={name}={value}" for name, value in values.items()))
    assert ended.summary["pcr"] == {name: replayed(listed, name).hex() for name in values}
    assert ended.summary["pcr_match"] == dict.fromkeys(values, index)
    assert ended.status == (1 if edited else 0)
    ended = run(path, "--until", "3", "--pcr", f"sha1={values['sha1']}")
    assert ended.summary["pcr"]["sha1"] == replayed(listed[:3], "sha1").hex()
    assert ended.summary["pcr_match"] == {"sha1": None}


# -- what cannot be used -------------------------------------------------------------------


def unusable(ended: Ended) -> str:
    """Its one line."""
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("dmimad: ")
    assert ended.err.count("\n") == 1
    assert ended.err.endswith("\n")
    return ended.err.removeprefix("dmimad: ").removesuffix("\n")


@pytest.mark.parametrize("form", ["text", "jsonl"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty; a measurement list has at least one record"),
        (b"\n", "not an IMA measurement list"),
        (b"hello, world\n", "not an IMA measurement list"),
        (bytes(1000), "not an IMA measurement list"),
        (bytes(range(256)) * 40, "not an IMA measurement list"),
        (b"\x1f\x8b" + b"\5" * 5000, "not an IMA measurement list"),
        (b'{"records": []}', "not an IMA measurement list"),
        (b"10 " + b"0" * 39, "not an IMA measurement list"),
    ],
)
def test_no_list(run: Command, tmp_path: Path, form: str, content: bytes, reason: str) -> None:
    path = write(tmp_path, content)
    said = unusable(run(path, form=form))
    assert said.startswith(f"{path}: {reason}")


def test_no_file(run: Command, tmp_path: Path) -> None:
    assert unusable(run(tmp_path / "nothing")) == f"{tmp_path}/nothing: No such file or directory"
    assert unusable(run(tmp_path)) == f"{tmp_path}: Is a directory"
    assert unusable(run(tmp_path / "a\nb\x1b[31m\udcff")).endswith(
        "a\\nb\\x1b[31m\\udcff: No such file or directory"
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--until", "-1"], "argument --until: invalid number of records value: '-1'"),
        (["--until", "many"], "argument --until: invalid number of records value: 'many'"),
        (["--pcr", "sha1"], "argument --pcr: 'sha1' is not BANK=HEX"),
        (["--pcr", "sha1=00"], "argument --pcr: 'sha1=00' is not BANK=HEX"),
        (["--pcr", "md5=" + "0" * 32], "is not BANK=HEX with a bank of sha1, sha256, sha384, sha512"),
        (["--pcr", "sha256=" + "x" * 64], "is not BANK=HEX"),
        (["--dialect", "new"], "argument --dialect: invalid choice: 'new'"),
        (["--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["--what"], "unrecognized arguments: --what"),
        (["again"], "unrecognized arguments: again"),
    ],
)
def test_arguments_that_are_none(run: Command, arguments: list[str], reason: str) -> None:
    said = unusable(run(folder("random-6.1") / "binary_runtime_measurements", *arguments))
    assert reason in said
    assert said.endswith("see dmimad replay --help") or "unrecognized" in said


def test_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay"]) == 2
    said = capsys.readouterr().err
    assert said == "dmimad: the following arguments are required: PATH; see dmimad replay --help\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version = 2\n", ":1: version: must be 1"),
        ("version = 1\n[[device]]\nnamme = 'x'\n", ":3: device.namme: unknown key; did you mean name?"),
        ("version = 1\n[[device]\n", ":2: "),
    ],
)
def test_a_baseline_that_is_refused(run: Command, tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "b.toml"
    path.write_text(text)
    said = unusable(run(folder("random-6.1") / "binary_runtime_measurements", "--baseline", str(path)))
    assert said.startswith(f"{path}{reason}")
    missing = unusable(
        run(folder("random-6.1") / "binary_runtime_measurements", "--baseline", str(tmp_path / "x"))
    )
    assert missing == f"{tmp_path}/x: cannot be read: No such file or directory"


def test_help_and_version() -> None:
    ended = program("replay", "--help")
    assert (ended.returncode, ended.stderr) == (0, b"")
    for option in (b"PATH", b"--format", b"--until", b"--baseline", b"--pcr", b"--dialect"):
        assert option in ended.stdout
    ended = program("--version")
    assert (ended.returncode, ended.stdout.decode()) == (0, f"dmimad {__version__}\n")


def test_a_reader_that_goes_away() -> None:
    """`dmimad replay … | head -1`: no traceback, no complaint."""
    path = folder("systematic-6.1") / "binary_runtime_measurements"
    with subprocess.Popen(
        [sys.executable, "-m", "dmimad.cli", "replay", str(path), "--format", "jsonl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"type":"record"')
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_a_terminal_that_knows_no_utf_8(form: str) -> None:
    path = folder("systematic-6.1") / "binary_runtime_measurements"
    ended = program("replay", str(path), "--format", form, environment={"PYTHONIOENCODING": "ascii"})
    assert (ended.returncode, ended.stderr) == (1, b"")
    assert b"154" in ended.stdout.splitlines()[-1] or form == "text"


# -- text ----------------------------------------------------------------------------------


def test_text(run: Command) -> None:
    path = folder("systematic-6.1") / "binary_runtime_measurements"
    value = pcr_values("systematic-6.1")["sha256"].hex()
    ended = run(path, "--pcr", f"sha256={value}", form="text")
    lines = ended.out.splitlines()
    assert ended.status == 1
    assert lines[0] == "       2  table_load    linear1 254:0  inactive sha256:7432020a2a62… (4 targets)"
    assert "  WARNING target.unmeasured: record 47: target 36, the last of 37," in ended.out
    assert (
        "\n154 records, 152 of device-mapper, dialect legacy, 0 violations\n0 devices at the end\n"
        in ended.out
    )
    assert f"PCR 10 sha256  {value}  matches after record 153\n" in ended.out
    assert lines[-1] == "findings: target.opaque 8, target.unmeasured 2"
    ended = run(path, "--pcr", "sha1=" + "00" * 20, "--summary", form="text")
    assert len(ended.out.splitlines()) == 7
    assert "  does not match\n" in ended.out
    assert "CRITICAL pcr.mismatch: the list never leads to the given sha1 value of PCR 10\n" in ended.out


HOSTILE = [
    b"\x1b[2J\x1b[31mred",
    b"line\nfeed",
    b"carriage\rreturn",
    b"bell\x07\x08\x7f",
    b"tab\tand\x00nul",
    "bidi\u202eevil\u2066".encode(),
    "next\u0085line\u2028".encode(),
    b"\xff\xfe\x9b31m",
    b'quote"\\back',
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_hostile_names(run: Command, tmp_path: Path, name: bytes, form: str) -> None:
    """Nothing in a name moves the cursor, begins a line or breaks the JSON."""
    kernel = Kernel("legacy")
    kernel.create(name, (linear(0),), b"U" + name)
    kernel.rename(name, b"2" + name)
    impossible = replay_items(kernel.items)
    assert impossible.alarms == []
    listed = [*kernel.items, kernel.items[-1]]  # repeated: a finding
    ended = run(write(tmp_path, listed), form=form)
    assert ended.status == 1
    assert (
        all(character.isprintable() for line in ended.out.split("\n") for character in line)
        or form == "jsonl"
    )
    if form == "jsonl":
        assert ended.summary["devices"][0]["name"] == (b"2" + name).decode("utf-8", "backslashreplace")
        assert len(ended.out.split("\n")) == len(ended.lines) + 1
        assert not re.search("[\x00-\x09\x0b-\x1f]", ended.out)
    else:
        assert len(ended.out.splitlines()) == len(ended.out.split("\n")) - 1 == 12


# -- progress ------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """Standard error, where somebody looks at it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("seconds", [0.1, 10.0])
def test_progress_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """A line that tells how far it is, for what takes long, and that is wiped at the end."""
    path = write(tmp_path, bytes(3 << 20))
    now = iter(seconds * number for number in range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    shown, silent = Terminal(), io.StringIO()
    with path.open("rb") as stream:
        assert sum(len(chunk) for chunk in command._with_progress(stream, shown)) == 3 << 20
    with path.open("rb") as stream:
        assert sum(len(chunk) for chunk in command._with_progress(stream, silent)) == 3 << 20
    assert silent.getvalue() == ""
    if seconds == 0.1:
        assert shown.getvalue() == ""
    else:
        assert "\r1 of 3 MiB (33 %)\x1b[K" in shown.getvalue()
        assert shown.getvalue().endswith("\r\x1b[K")
