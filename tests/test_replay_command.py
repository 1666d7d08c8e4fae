"""``dmimad replay`` as a program: the contract's JSON, exit statuses, unusable input, hostile names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CORPUS
from tests.core import lists

FOLDERS = sorted(path.name for path in CORPUS.iterdir() if path.is_dir())
DIALECTS = {"v1": "v1", "6.1": "legacy", "6.12": "legacy", "7.2": "ordered"}
EVENTS = {"table_load", "device_resume", "device_remove", "table_clear", "device_rename", "target_update"}


def replay(*arguments: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the command; there is never a traceback."""
    argv = [sys.executable, "-m", "dmimad.cli", "replay", *map(str, arguments)]
    done = subprocess.run(argv, input=stdin, capture_output=True, check=False, timeout=60)
    assert b"Traceback" not in done.stderr, done.stderr
    return done


def objects(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def pcrs_of(folder: str) -> dict[str, str]:
    meta = json.loads((CORPUS / folder / "meta.json").read_text("utf-8"))
    return {bank: value.lower() for bank, value in meta["pcr10"].items()}


def list_files(folder: str) -> list[Path]:
    return sorted((CORPUS / folder).glob("*_runtime_measurements*"))


def refused(done: subprocess.CompletedProcess[bytes], *fragments: str) -> None:
    """Exit 2, nothing on standard output, one line on standard error with what is wrong."""
    assert done.returncode == 2
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("dmimad: ")
    for fragment in fragments:
        assert fragment in lines[0]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_form_of_every_recorded_list(folder: str) -> None:
    expected_pcrs = pcrs_of(folder)
    pcr_arguments = [f"--pcr={bank}={value.upper()}" for bank, value in expected_pcrs.items()]
    outputs = []
    for path in list_files(folder):
        done = replay(path, "--format", "jsonl", *pcr_arguments)
        summary = objects(done.stdout)[-1]
        holes = summary["findings"].get("target.unmeasured", 0)
        assert done.returncode == (1 if holes else 0)
        assert done.stderr == b""
        outputs.append(done.stdout)
    assert len(set(outputs)) == 1  # ASCII or binary, whatever the bank: the same analysis
    *records, summary = objects(outputs[0])
    assert summary["type"] == "summary"
    assert summary["pcr"] == expected_pcrs
    assert summary["pcr_match"] == dict.fromkeys(expected_pcrs, summary["records"] - 1)
    assert summary["violations"] == 0
    assert summary["dialect"] == DIALECTS[folder.split("-")[1]]
    assert summary["dm_records"] == len(records)
    assert set(summary["findings"]) <= {"target.opaque", "target.unmeasured"}
    check_records(records)


def check_records(records: Iterable[dict[str, Any]]) -> None:
    """The shape that others rely on."""
    last = -1
    for record in records:
        assert list(record) == ["type", "index", "event", "device", "active", "inactive", "findings"]
        assert record["type"] == "record"
        assert record["index"] > last
        last = record["index"]
        assert record["event"] in EVENTS
        assert set(record["device"]) == {"name", "uuid", "major", "minor"}
        for slot in (record["active"], record["inactive"]):
            if slot is not None:
                assert set(slot) == {"hash", "name", "uuid", "num_targets"}
                assert slot["hash"].startswith("sha256:")
                assert len(slot["hash"]) == 7 + 64
        if record["event"] == "device_remove":
            assert record["active"] is None
            assert record["inactive"] is None
        if record["event"] == "table_clear":
            assert record["inactive"] is None


def test_the_first_records_in_full() -> None:
    """Load, resume, reload of linear1, as dmsetup did it (corpus, first steps)."""
    path = CORPUS / "systematic-6.1" / "binary_runtime_measurements"
    records = objects(replay(path, "--format", "jsonl", "--until", "5").stdout)
    first = {
        "hash": "sha256:7432020a2a625c608722bc63208e42ec0d68b783970c37a7dc7b3a4b68126f38",
        "name": "linear1",
        "uuid": "",
        "num_targets": 4,
    }
    device = {"name": "linear1", "uuid": "", "major": 254, "minor": 0}
    assert records[0] == {
        "type": "record",
        "index": 2,
        "event": "table_load",
        "device": device,
        "active": None,
        "inactive": first,
        "findings": [],
    }
    assert (records[1]["event"], records[1]["active"], records[1]["inactive"]) == (
        "device_resume",
        first,
        None,
    )
    assert (records[2]["index"], records[2]["event"], records[2]["active"]) == (4, "table_load", first)
    assert records[2]["inactive"]["num_targets"] == 2
    summary = records[3]
    assert (summary["records"], summary["dm_records"]) == (5, 3)
    assert summary["devices"] == [
        {**device, "active": first, "inactive": records[2]["inactive"]},
    ]


def test_v1_hashes_carry_their_algorithm_too() -> None:
    path = CORPUS / "systematic-v1" / "ascii_runtime_measurements"
    resume = objects(replay(path, "--format", "jsonl", "--until", "4").stdout)[1]
    assert (
        resume["active"]["hash"] == "sha256:a3339cb2357963f937203293bde6aaccf8ca6124ea58a28655432b2aceb7369f"
    )


def test_standard_input() -> None:
    path = CORPUS / "random-7.2" / "ascii_runtime_measurements_sha256"
    piped = replay("-", "--format", "jsonl", stdin=path.read_bytes())
    assert piped.returncode == 0
    assert piped.stdout == replay(path, "--format", "jsonl").stdout


@pytest.mark.parametrize("until", [0, 1, 60, 122, 500])
def test_until_stops_after_so_many_records(until: int) -> None:
    path = CORPUS / "random-6.1" / "binary_runtime_measurements"
    *records, summary = objects(replay(path, "--format", "jsonl", "--until", str(until)).stdout)
    assert summary["records"] == min(until, 122)
    assert all(record["index"] < until for record in records)
    if until == 0:
        assert summary["pcr"] == {"sha1": "00" * 20, "sha256": "00" * 32}
        assert summary["dialect"] is None


def test_a_pcr_value_in_the_middle_and_one_that_never_was() -> None:
    path = CORPUS / "random-6.1" / "binary_runtime_measurements"
    half = objects(replay(path, "--format", "jsonl", "--until", "60").stdout)[-1]["pcr"]
    done = replay(path, "--format", "jsonl", f"--pcr=sha256={half['sha256']}", "--pcr", "sha384=" + "ab" * 48)
    summary = objects(done.stdout)[-1]
    assert done.returncode == 1
    assert summary["pcr_match"] == {"sha256": 59, "sha384": None}
    assert summary["findings"]["pcr.mismatch"] == 1
    assert set(summary["pcr"]) == {"sha1", "sha256", "sha384"}


def test_a_forced_dialect_that_the_records_contradict() -> None:
    path = CORPUS / "systematic-7.2" / "binary_runtime_measurements"
    done = replay(path, "--format", "jsonl", "--dialect", "legacy")
    summary = objects(done.stdout)[-1]
    assert done.returncode == 1
    assert summary["dialect"] == "legacy"
    assert summary["findings"]["state.impossible"] == 1


def test_drift_from_a_baseline(tmp_path: Path) -> None:
    """The attacks of the corpus: verity swapped for linear, data pointed elsewhere."""
    baseline = tmp_path / "baseline.toml"
    baseline.write_text(
        'version = 1\n[[device]]\nname = "image-ro"\nrequired = true\n'
        'hashes = ["sha256:f3b63d8ad4a44bbf2ac60c9cb2a4aa4ec6d3a8c6a4f5d8f1ec1b2f2ed46a3c0b"]\n'
        '[[device]]\nname = "*"\n'
    )
    path = CORPUS / "lvm-6.1" / "binary_runtime_measurements"
    done = replay(path, "--format", "jsonl", "--baseline", baseline)
    *records, summary = objects(done.stdout)
    assert done.returncode == 1
    found = {
        (record["index"], finding["code"])
        for record in records
        for finding in record["findings"]
        if finding["code"].startswith(("drift", "device"))
    }
    assert (580, "drift.active") in found
    assert [finding["code"] for finding in summary["closing_findings"]] == ["device.missing"]


def test_a_wrong_baseline_is_refused_with_its_line(tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.toml"
    baseline.write_text('version = 1\n[[device]]\nname = "x"\nhashs = []\n')
    path = CORPUS / "random-6.1" / "binary_runtime_measurements"
    refused(replay(path, "--baseline", baseline), f"{baseline}:4: device.hashs", "did you mean hashes?")


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "empty"),
        (b"\n", "not an IMA measurement list"),
        (b"hello world\n" * 100, "not an IMA measurement list"),
        (bytes(range(256)) * 40, "not an IMA measurement list"),
        (b"\0" * 4096, "not an IMA measurement list"),
        (b"\x7fELF" + b"\2" * 70000, "not an IMA measurement list"),
    ],
    ids=["empty", "newline", "text", "bytes", "zeros", "program"],
)
def test_what_is_no_list_is_refused_in_one_line(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = tmp_path / "list"
    path.write_bytes(content)
    refused(replay(path), str(path), fragment)
    refused(replay("-", stdin=content), "-: ", fragment)


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["/nonexistent/list"], ["/nonexistent/list", "No such file or directory"]),
        (["/"], ["/: Is a directory"]),
        ([], ["PATH", "dmimad replay --help"]),
        (["x", "--pcr", "sha1=12"], ["sha1=12", "BANK=HEX"]),
        (["x", "--pcr", "md5=" + "0" * 32], ["BANK=HEX"]),
        (["x", "--until", "-1"], ["--until"]),
        (["x", "--until", "many"], ["number of records"]),
        (["x", "--format", "xml"], ["--format"]),
        (["x", "--dialect", "v9"], ["--dialect"]),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: list[str], fragments: list[str]) -> None:
    refused(replay(*arguments), *fragments)


def test_a_list_that_breaks_in_the_middle_is_analysed_up_to_there(tmp_path: Path) -> None:
    whole = (CORPUS / "random-6.1" / "binary_runtime_measurements").read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(whole[: len(whole) // 2])
    done = replay(path, "--format", "jsonl")
    summary = objects(done.stdout)[-1]
    assert done.returncode == 1
    assert summary["findings"]["record.malformed"] == 1
    assert 0 < summary["records"] < 122
    last = [line for line in objects(done.stdout) if line["type"] == "finding"][-1]
    assert "ends inside a record" in last["findings"][0]["message"]


def test_the_text_says_the_same(tmp_path: Path) -> None:
    folder = "systematic-6.1"
    path = CORPUS / folder / "binary_runtime_measurements"
    done = replay(path, f"--pcr=sha256={pcrs_of(folder)['sha256']}")
    text = done.stdout.decode()
    assert done.returncode == 1
    assert "154 records, 152 of device-mapper, dialect legacy, 0 violations" in text
    assert f"PCR 10 sha256  {pcrs_of(folder)['sha256']}  matches after record 153" in text
    assert "WARNING target.unmeasured: record 47:" in text
    assert "findings: target.opaque 8, target.unmeasured 2" in text
    only = replay(path, "--summary").stdout.decode()
    assert "table_load" not in only
    assert "154 records" in only


def test_names_cannot_move_the_cursor_or_begin_a_line() -> None:
    name = b"a\x1b[2J\nroot\x07\xff\xe2\x80\xae"
    metadata = b"name=" + name + b",uuid=,major=253,minor=0,minor_count=1,num_targets=1;"
    event = (
        b"dm_version=4.48.0;" + metadata + b"target_index=0,target_begin=0,target_len=8,"
        b"target_name=linear,target_version=1.4.0,device_name=1:0,start=0;"
    )
    listed = lists.binary_list([lists.boot_aggregate(), lists.buffer("dm_table_load", event)])
    done = replay("-", stdin=listed)
    assert done.returncode == 0
    for line in done.stdout.decode().splitlines():
        assert line.isprintable()
    shown = objects(replay("-", "--format", "jsonl", stdin=listed).stdout)[0]["device"]["name"]
    assert shown == "a\x1b[2J\nroot\x07\\xff\u202e"


def test_a_reader_that_goes_away_is_no_error() -> None:
    path = CORPUS / "lvm-6.1" / "binary_runtime_measurements"
    argv = [sys.executable, "-m", "dmimad.cli", "replay", str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_help_and_version() -> None:
    argv = [sys.executable, "-m", "dmimad.cli"]
    for arguments in (["--help"], ["--version"], ["replay", "--help"], ["run", "--help"], ["demo", "--help"]):
        done = subprocess.run([*argv, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert done.stdout.startswith(("usage: dmimad", "dmimad 0."))
