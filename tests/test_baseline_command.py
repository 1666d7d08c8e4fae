"""``dmimad baseline capture``, ``diff``, ``approve`` as people meet them; with a daemon: `tests.service`."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dmimad.adapters import baseline_writing
from dmimad.adapters.baseline_files import read_baseline, read_baseline_file
from dmimad.adapters.live.dm import DmControl
from dmimad.adapters.live.server import Server, Timing
from dmimad.adapters.live.sockets import listen_at, remove
from dmimad.cli import main
from dmimad.commands.baseline import actual, approve
from dmimad.core.backing import no_names
from dmimad.core.capture import Captured, captured_device, captured_live
from dmimad.core.observation import LiveDevice, LiveTable, Observation
from tests.adapters.live_kernel import ModelKernel, example
from tests.core.kernel import Kernel, linear, linears, opaque
from tests.core.lists import ascii_list, binary_list
from tests.core.recorded import folder

LVM = folder("lvm-7.2")
VOLUMES = 8
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    status: int
    out: str
    err: str


class Desk:
    """A directory with settings and baselines, where the commands are run in this process."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.baseline = directory / "baseline.d"
        self.baseline.mkdir()
        self.settings = directory / "dmimad.toml"
        self.list = directory / "list"
        self.kernel = Kernel("ordered", deduplicate=False)
        self.configure()
        self._capsys = capsys

    def configure(self) -> None:
        self.settings.write_text(
            f'[host]\nid = "web-1"\n[baseline]\ndirectory = "{self.baseline}"\n[live]\n'
            f'socket = "{self.directory}/live.sock"\n[control]\nsocket = "{self.directory}/control.sock"\n'
        )

    def write(self) -> None:
        self.list.write_bytes(binary_list(self.kernel.items))

    def arguments(self, *words: object, source: Path | str | None = None) -> list[str]:
        place = ["--from", str(source or self.list)] if source != "" else []
        return ["baseline", str(words[0]), "--config", str(self.settings), *place, *map(str, words[1:])]

    def __call__(self, *words: object, source: Path | str | None = None) -> Ended:
        """Run a subcommand on the list; ``source`` "" : on nothing that is named."""
        if source is None:
            self.write()
        self._capsys.readouterr()
        status = main(self.arguments(*words, source=source))
        captured = self._capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    def captured(self, name: str = "host.toml", *options: str) -> Path:
        path = self.baseline / name
        assert self("capture", "--output", path, *options).status == 0
        return path


@pytest.fixture
def desk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    with open(os.devnull) as nothing:  # noqa: PTH123  # not a file but no terminal
        monkeypatch.setattr(sys, "stdin", nothing)
        yield Desk(tmp_path, capsys)


@pytest.fixture
def pair(desk: Desk) -> Desk:
    """Two devices, captured."""
    desk.kernel.create(b"image", (linear(0), linear(8)), b"LVM-1")
    desk.kernel.create(b"home", (linear(16),))
    desk.captured()
    return desk


def change(desk: Desk, name: bytes = b"image", start: int = 32) -> None:
    desk.kernel.load(name, (linear(0), linear(start)))
    desk.kernel.resume(name)


# -- capture --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ascii", "binary"])
def test_what_is_captured_is_approved(desk: Desk, form: str) -> None:
    recorded = LVM / f"{form}_runtime_measurements"
    ended = desk("capture", source=recorded)
    assert (ended.status, ended.err.splitlines()[0]) == (
        0,
        f"8 devices captured, from the list {recorded} alone",
    )
    (desk.baseline / "a.toml").write_text(ended.out)
    assert len(read_baseline(desk.baseline).entries) == VOLUMES
    ended = desk("diff", source=recorded)
    assert (ended.status, ended.out.splitlines()[-1]) == (0, "8 approved")


def test_both_forms_of_a_list_are_captured_alike(desk: Desk) -> None:
    forms = [desk("capture", source=LVM / f"{form}_runtime_measurements").out for form in ("ascii", "binary")]
    ascii_form, binary_form = (text.partition("version = 1")[2] for text in forms)
    assert ascii_form == binary_form


def test_a_file_is_written_once(desk: Desk) -> None:
    desk.kernel.create(b"a", (linear(0),))
    path = desk.captured()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    before = path.read_bytes()
    ended = desk("capture", "--output", path)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == f"dmimad: {path}: is there already; name another file, or give --force\n"
    assert path.read_bytes() == before
    desk.kernel.create(b"b", (linear(0),))
    path.chmod(0o640)
    assert desk("capture", "--output", path, "--force").status == 0
    assert len(read_baseline_file(path).entries) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [each.name for each in desk.baseline.iterdir()] == ["host.toml"]


def test_where_nothing_can_be_written(desk: Desk) -> None:
    desk.kernel.create(b"a", (linear(0),))
    ended = desk("capture", "--output", desk.directory / "no/where.toml")
    assert ended.err.splitlines()[-1] == f"dmimad: {desk.directory}/no: there is no such directory; make it"
    assert ended.status == 2


def test_what_is_next_is_said(desk: Desk) -> None:
    desk.kernel.create(b"a", (linear(0),))
    assert f"put it into {desk.baseline} as a file *.toml" in desk("capture").err
    assert "next: read" in desk("capture", "--output", desk.directory / "x.toml").err
    (desk.baseline / "s.toml.sig").write_text("{}")
    ended = desk("capture", "--output", desk.baseline / "s.toml", "--serial", "1")
    assert "sign it: dmimad baseline sign --key KEY" in ended.err
    assert "takes it up by itself" in ended.err
    assert read_baseline_file(desk.baseline / "s.toml").serial == 1


def test_only_some_devices(desk: Desk) -> None:
    for name in (b"vg0-a", b"vg0-b", b"other"):
        desk.kernel.create(name, (linear(0),))
    path = desk.captured("some.toml", "--device", "vg0-*", "--device", "none", "--hashes")
    entries = read_baseline_file(path).entries
    assert [(entry.label, len(entry.hashes)) for entry in entries] == [("vg0-a", 1), ("vg0-b", 1)]
    ended = desk("capture", "--device", "vg1-*")
    assert (ended.status, ended.err) == (2, "dmimad: no device is called like vg1-*; see dmimad status\n")


def test_warnings_are_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(25):
        desk.kernel.create(b"d%d" % number, (linear(0),))
    ended = desk("capture")
    assert ended.err.count("WARNING") == 20
    assert "and 5 more, which are in its comments" in ended.err
    assert ended.out.count("# WARNING") == 25


@pytest.mark.parametrize("text", ["-1", "x", "9223372036854775808"])
def test_a_serial_is_a_number(desk: Desk, text: str) -> None:
    assert desk("capture", f"--serial={text}").status == 2


def test_more_than_a_file_holds(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.kernel.create(b"a", (linear(0),))
    monkeypatch.setattr("dmimad.core.baseline_text.MAX_ENTRIES", 0)
    ended = desk("capture")
    assert (ended.status, ended.err.startswith("dmimad: 1 devices are more than")) == (2, True)


# -- where devices are learnt ---------------------------------------------------------------


def program(*arguments: str, stdin: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "dmimad.cli", *arguments],
        input=stdin,
        capture_output=True,
        env={**os.environ, **variables},
        check=False,
        timeout=DEADLINE_SECONDS,
    )


def test_a_list_from_standard_input(desk: Desk) -> None:
    desk.kernel.create(b"a", (linear(0),))
    ended = program(*desk.arguments("capture", source="-"), stdin=ascii_list(desk.kernel.items))
    assert (ended.returncode, ended.stdout.count(b"[[device]]")) == (0, 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"nonsense " * 100, "list"), (None, "No such file")],
)
def test_what_is_no_list(desk: Desk, data: bytes | None, reason: str) -> None:
    path = desk.directory / "other"
    if data is not None:
        path.write_bytes(data)
    ended = desk("capture", source=path)
    assert (ended.status, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert reason in ended.err
    assert str(path) in ended.err


def test_a_list_that_ends_within_a_record(desk: Desk) -> None:
    desk.kernel.create(b"a", (linear(0),))
    data = binary_list(desk.kernel.items)
    path = desk.directory / "cut"
    path.write_bytes(data[:-3])
    ended = desk("capture", source=path)
    assert (ended.status, len(ended.err.splitlines())) == (2, 1)


def test_of_the_kernels_own_list_block_devices_have_their_names(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actual, "is_kernel_list", lambda path: True)
    monkeypatch.setattr(actual, "BlockNames", lambda: lambda number: (f"serial:QM{number[1]}",))
    desk.kernel.create(b"a", (linear(0),))
    ended = desk("capture")
    assert 'device_name = "serial:QM0"' in ended.out
    assert "WARNING" not in ended.out
    assert ended.out.startswith("# Captured on web-1 at ")
    assert f"# Linux {os.uname().release}, device-mapper 4.50.0.\n" in ended.out


def test_of_another_list_they_have_numbers_and_that_is_said(desk: Desk) -> None:
    desk.kernel.create(b"a", (linear(0),))
    ended = desk("capture")
    assert 'device_name = "number:1:0"' in ended.out
    assert "note: the list may be of another host" in ended.err
    assert "web-1" not in ended.out


def test_without_a_daemon_it_is_said_what_else_can_be_done(desk: Desk) -> None:
    ended = desk("capture", source="")
    assert (ended.status, ended.out) == (2, "")
    assert "there is no control socket" in ended.err
    assert ended.err.endswith("or ask the kernel (--live, as root) or a list (--from)\n")
    desk.settings.write_text('[control]\nsocket = ""\n')
    ended = desk("diff", LVM, source="")
    assert ended.status == 2
    assert "control.socket is empty" in desk("capture", source="").err


@contextlib.contextmanager
def observer(kernel: ModelKernel, path: Path) -> Iterator[None]:
    """The real observer's server at this socket; its kernel is a model."""
    control = DmControl(opener=kernel.open, ioctl=kernel.ioctl)
    listener = listen_at(path, ())
    server = Server(control, listener=listener, timing=Timing(), report=lambda line: None)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield
    finally:
        server.stop()
        thread.join(DEADLINE_SECONDS)
        remove(listener, path)
        assert not thread.is_alive()


def test_the_kernel_is_asked_without_a_daemon(desk: Desk) -> None:
    path = desk.baseline / "live.toml"
    with observer(example(), desk.directory / "live.sock"):
        ended = desk("capture", "--live", "--output", path, source="")
        assert (ended.status, ended.out) == (0, ""), ended.err
        ended = desk("diff", "--live", source="")
    entries = {entry.label: entry for entry in read_baseline_file(path).entries}
    assert set(entries) == {"lin", "odd ä\\xff;=,\\", "staged", "far"}
    assert entries["staged"].rules[0].types == ("zero",)
    assert not any(entry.hashes for entry in entries.values())
    results = {" ".join(line.split()[:2]) for line in ended.out.splitlines() if line[:1] != " "}
    assert {"approved lin", "approved odd", "approved far", "differs staged", "unexpected new"} <= results
    assert ended.status == 1


def test_an_observer_that_is_not_there_is_one_line(desk: Desk) -> None:
    ended = desk("capture", "--live", source="")
    assert (ended.status, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert "observer" in ended.err


# -- diff -----------------------------------------------------------------------------------


def test_what_differs_stands_side_by_side(pair: Desk) -> None:
    change(pair)
    ended = pair("diff")
    path = pair.baseline / "host.toml"
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if '"image"' in text) - 1
    assert ended.status == 1
    assert ended.out == (
        "approved    home (254:1)\n"
        "differs     image (254:0)\n"
        f"    baseline: {path}:{line}\n"
        "    the active table\n"
        "                        approved                     actual\n"
        "    target 1\n"
        "      start             8                            32\n"
        "1 approved, 1 differs\n"
    )


def test_it_fits_80_columns_and_has_no_colours_in_a_pipe(desk: Desk) -> None:
    desk.kernel.create(b"x" * 40, (linear(0),), b"LVM-" + b"u" * 64)
    path = desk.captured()
    path.write_text(re.sub("config:.{10}", "config:0123456789", path.read_text()))
    ended = desk("diff")
    shown = [line for line in ended.out.splitlines() if not line.startswith("    baseline: ")]
    assert max(map(len, shown)) <= 80
    assert "fingerprint" in ended.out
    assert "\x1b" not in ended.out


def test_missing_unexpected_and_renamed_devices(pair: Desk) -> None:
    pair.kernel.create(b"new", (linear(0),))
    pair.kernel.rename(b"image", b"picture")
    pair.kernel.remove(b"home")
    ended = pair("diff")
    assert re.findall(r"^(\w+) +(\S+)", ended.out, re.MULTILINE)[:-1] == [
        ("missing", "home"),
        ("unexpected", "new"),
        ("renamed", "picture"),
    ]
    assert "the approved device image is called picture now (254:0)" in ended.out
    assert ended.out.endswith("1 renamed, 1 unexpected, 1 missing\n")


def test_it_is_told_to_programs_too(pair: Desk) -> None:
    change(pair)
    ended = pair("diff", "--json")
    document: dict[str, Any] = json.loads(ended.out)
    assert (ended.status, document["counts"]) == (1, {"approved": 1, "differs": 1})
    assert (document["baseline"], document["witness"]) == (str(pair.baseline), f"the list {pair.list} alone")
    home, image = document["devices"]
    assert (home["result"], home["findings"], home["differences"]) == ("approved", [], [])
    assert image["differences"] == [
        {"slot": "active", "target": 1, "attribute": "start", "approved": "8", "actual": "32"}
    ]
    assert [(each["code"], each["severity"]) for each in image["findings"]] == [("drift.active", "critical")]
    assert (image["name"], image["key"], image["uuid"]) == ("image", "254:0", "LVM-1")


def test_another_file_or_directory_can_be_compared_with(pair: Desk) -> None:
    other = pair.directory / "other.toml"
    other.write_text('version = 1\n[[device]]\nname = "*"\n')
    assert pair("diff", other).out.splitlines()[-1] == "2 approved"
    assert pair("diff", pair.baseline).status == 0
    ended = pair("diff", pair.directory / "none")
    assert (ended.status, "there is no such file or directory" in ended.err) == (2, True)
    other.write_text("version = 2\n")
    assert (pair("diff", other).status, pair("diff", other).err) == (
        2,
        f"dmimad: {other}:1: version: must be 1\n",
    )


def test_where_nothing_is_approved_there_is_nothing_to_compare(desk: Desk) -> None:
    desk.kernel.create(b"a", (linear(0),))
    ended = desk("diff")
    assert (ended.status, "nothing is approved yet" in ended.err) == (2, True)


def test_what_devices_are_called_never_reaches_the_terminal(desk: Desk) -> None:
    name = "\x1b[2J\r\u202eevil\x9b".encode()
    desk.kernel.create(name, (linear(0, "7:1"),))
    desk.captured()
    desk.kernel.load(name, (linear(8, "7:1"),))
    outputs = [desk("diff"), desk("diff", "--json"), desk("capture")]
    outputs.append(desk("approve", name.decode(), "--inactive", "--yes"))
    for ended in outputs:
        for line in (ended.out + ended.err).split("\n"):
            assert line.isprintable(), line
    assert outputs[-1].status == 0
    assert desk("diff").status == 0


# -- approve --------------------------------------------------------------------------------


def test_old_and_new_are_approved_until_the_old_is_removed(pair: Desk) -> None:
    path = pair.baseline / "host.toml"
    before = path.read_text()
    change(pair)
    ended = pair("approve", "image", "--yes", "--description", 'more "space"')
    assert ended.status == 0, ended.err
    assert "      start             8                            32\n" in ended.out
    assert f"to be added to {path}:\n" in ended.out
    assert ended.out.endswith(f"approved: {path}\n")
    assert path.read_text().startswith(
        before + "\n# image (254:0): LVM volume, linear on 1:0, 2 segments, 8 KiB; "
    )
    assert pair("diff").status == 0
    change(pair, start=8)
    assert pair("diff").status == 0
    change(pair)
    ended = pair("approve", "image", "--yes", "--replace")
    assert "2 former entries are to be removed" in ended.out
    assert [entry.label for entry in read_baseline_file(path).entries] == ["home", "image"]
    assert pair("diff").status == 0
    change(pair, start=8)
    assert pair("diff").status == 1


def test_what_is_approved_already_is_left_alone(pair: Desk) -> None:
    before = (pair.baseline / "host.toml").read_bytes()
    ended = pair("approve", "image", "--yes")
    assert (ended.status, ended.out) == (0, "image (254:0) is approved as it is; nothing to do\n")
    assert (pair.baseline / "host.toml").read_bytes() == before


def test_without_a_terminal_it_must_be_said_that_it_is_right(pair: Desk) -> None:
    before = (pair.baseline / "host.toml").read_bytes()
    change(pair)
    ended = pair("approve", "image")
    assert ended.status == 2
    assert ended.err.endswith("dmimad: there is no terminal to ask on; if this is right, give --yes\n")
    assert "[[device]]" in ended.out
    assert (pair.baseline / "host.toml").read_bytes() == before


def on_terminal(*arguments: str, answer: bytes, **variables: str) -> tuple[int, str]:
    """The program on a terminal of its own; the answer is given when it asks."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "dmimad.cli", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            env={**os.environ, "TERM": "xterm", **variables},
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: its end
            while piece := os.read(ours, 4096):
                if b"[y/N] " in piece:
                    os.write(ours, answer)
                shown += piece
        _, err = process.communicate(timeout=DEADLINE_SECONDS)
        assert err == b""
        return process.returncode, shown.decode()
    finally:
        os.close(ours)


@pytest.mark.parametrize(
    ("answer", "status", "entries"), [(b"y\n", 0, 3), (b"YES\n", 0, 3), (b"n\n", 1, 2), (b"\x04", 1, 2)]
)
def test_on_a_terminal_it_asks(pair: Desk, answer: bytes, status: int, entries: int) -> None:
    change(pair)
    pair.write()
    ended, shown = on_terminal(*pair.arguments("approve", "image"), answer=answer)
    assert ended == status
    assert "Approve this? [y/N] " in shown
    assert ("nothing was written" in shown) is bool(status)
    assert "\x1b[31m32\x1b[0m" in shown
    assert len(read_baseline(pair.baseline).entries) == entries


def test_no_colours_where_they_are_not_wanted(pair: Desk) -> None:
    change(pair)
    pair.write()
    _, shown = on_terminal(*pair.arguments("approve", "image"), answer=b"n\n", NO_COLOR="1")
    assert "\x1b" not in shown


def test_a_staged_table_is_approved_before_it_is_resumed(pair: Desk) -> None:
    pair.kernel.load(b"image", (linear(0), linear(32)))
    assert pair("diff").status == 1
    ended = pair("approve", "image", "--inactive", "--yes")
    assert ended.status == 0, ended.err
    assert "approved while it was staged" in (pair.baseline / "host.toml").read_text()
    assert pair("diff").status == 0
    pair.kernel.resume(b"image")
    assert pair("diff").status == 0


def test_what_cannot_be_approved(pair: Desk) -> None:
    pair.kernel.create(b"bare")
    pair.kernel.load(b"bare", (linear(0),))
    pair.kernel.clear(b"bare")
    pair.kernel.create(b"staged")
    pair.kernel.load(b"staged", (linear(0),))
    for words, problem in (
        (("imag",), "imag: there is no such device; did you mean image?"),
        (("zzzzzzzz",), "zzzzzzzz: there is no such device"),
        (("bare",), "bare (254:2): it has no active table"),
        (("staged",), "staged (254:3): it has no active table; --inactive approves the staged one"),
        (("image", "--inactive"), "image (254:0): no table is staged"),
        (("image", "--not-after", "2001-01-01"), "--not-after must be in the future"),
        (("image", "--not-after", "x"), "'x' is not a time like"),
        (("image", "--not-before", "0001-01-01"), "'0001-01-01' is not a time like"),
        (("image", "--description", "x" * 501), "--description: at most 500 characters"),
    ):
        ended = pair("approve", "--yes", *words)
        assert (ended.status, ended.out) == (2, ""), words
        assert problem in ended.err.splitlines()[-1]


def test_a_device_is_found_by_its_number_and_by_its_uuid(pair: Desk) -> None:
    for which in ("254:0", "LVM-1", "image"):
        assert pair("approve", which, "--yes").out.startswith("image (254:0) is approved")


def test_of_two_that_go_by_one_name_the_number_must_be_said(
    pair: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = actual.actual_state

    def twice(*arguments: Any) -> Any:
        found = state(*arguments)
        (first, *_) = (one for one in found.devices if one.name == "image")
        other = captured_device(first.device._replace(key="254:9", minor=9), None, no_names)
        devices = (*found.devices, other)
        return actual.Actual(Captured("", False, devices), found.witness, here=False)

    monkeypatch.setattr(approve, "actual_state", twice)
    ended = pair("approve", "image", "--yes")
    assert ended.err.splitlines()[-1].endswith("there are several; say which by number: 254:0, 254:9")
    assert pair("approve", "254:0", "--yes").status == 0


def test_the_first_entry_is_announced(desk: Desk) -> None:
    desk.kernel.create(b"my image?", (linear(0),))
    ended = desk("approve", "my image?", "--yes")
    assert "note: this is the first entry: from now on every device without one is unexpected" in ended.out
    (path,) = desk.baseline.iterdir()
    assert re.fullmatch(r"my_image_-[0-9a-f]{8}\.toml", path.name)
    assert f"to be written to the new file {path}" in ended.out
    assert desk("diff").status == 0


def test_a_policy_that_is_overridden_is_named(desk: Desk) -> None:
    desk.kernel.create(b"image", (linear(0),))
    (desk.baseline / "policy.toml").write_text('version = 1\n[[device]]\nname = "im*"\nrequired = true\n')
    ended = desk("approve", "image", "--yes")
    origin = f"{desk.baseline}/policy.toml:2"
    assert f"note: the entry {origin} (im*) does not speak for this device any more" in ended.out
    assert (desk.baseline / "image.toml").exists()


def test_what_the_former_entry_says_is_taken_over(desk: Desk) -> None:
    desk.kernel.create(b"image", (linear(0),), b"LVM-1")
    path = desk.baseline / "a.toml"
    path.write_text(
        'version = 1\n[[device]]\nname = "image"\nallow = ["remove"]\nseverity = "warning"\n'
        f'hashes = ["sha256:{"0" * 64}"]\n'
    )
    assert desk("approve", "image", "--yes").status == 0
    old, new = read_baseline_file(path).entries
    assert (new.name, new.uuid, new.required) == ("image", "", False)
    assert (new.allow, new.severity) == (old.allow, old.severity)
    assert desk("diff").status == 0


def test_a_renamed_device_is_approved_under_its_new_name(pair: Desk) -> None:
    pair.kernel.rename(b"image", b"picture")
    assert pair("approve", "picture", "--yes", "--replace").status == 0
    labels = [entry.label for entry in read_baseline(pair.baseline).entries]
    assert labels == ["home", "picture"]
    assert pair("diff").status == 0


def test_a_serial_is_raised_and_signing_asked_for(desk: Desk) -> None:
    desk.kernel.create(b"image", (linear(0),))
    path = desk.captured("host.toml", "--serial", "41")
    path.with_name("host.toml.sig").write_text("{}")
    desk.kernel.load(b"image", (linear(8),))
    desk.kernel.resume(b"image")
    ended = desk("approve", "image", "--yes")
    assert ended.out.splitlines()[-3:] == [
        f"approved: {path}",
        "its serial is 42 now",
        f"it must be signed again: dmimad baseline sign --key KEY {path}",
    ]
    assert read_baseline_file(path).serial == 42


def test_another_file_can_be_named(pair: Desk) -> None:
    change(pair)
    other = pair.directory / "elsewhere.toml"
    assert pair("approve", "image", "--yes", "--file", other).status == 0
    assert len(read_baseline_file(other).entries) == 1
    change(pair, start=64)
    assert pair("approve", "image", "--yes", "--file", other).status == 0
    assert len(read_baseline_file(other).entries) == 2
    assert pair("diff").status == 1


def test_an_approval_has_its_time(pair: Desk) -> None:
    change(pair)
    times = ("--not-before", "2040-01-01T00:00:00Z", "--not-after", "2040-01-02T00:00:00+00:00")
    assert pair("approve", "image", "--yes", *times).status == 0
    entry = read_baseline(pair.baseline).entries[-1]
    assert entry.not_after is not None
    assert entry.not_before is not None
    assert entry.not_after - entry.not_before == 86400
    assert pair("diff").status == 1


def test_mode_and_owner_stay_and_links_are_followed(pair: Desk) -> None:
    path, real = pair.baseline / "host.toml", pair.directory / "real.toml"
    path.rename(real)
    path.symlink_to(real)
    real.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(real, 12, 34)
    owner = (real.stat().st_uid, real.stat().st_gid)
    change(pair)
    assert pair("approve", "image", "--yes").status == 0
    assert path.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert (real.stat().st_uid, real.stat().st_gid) == owner
    assert len(read_baseline_file(real).entries) == 3


def test_a_file_that_was_changed_meanwhile_is_left_alone(pair: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pair.baseline / "host.toml"
    change(pair)

    def write_over(file: Path, data: bytes, former: bytes | None) -> None:
        path.write_text("version = 1\n")
        baseline_writing.write_over(file, data, former)

    monkeypatch.setattr(approve, "write_over", write_over)
    ended = pair("approve", "image", "--yes")
    assert (ended.status, ended.err.splitlines()[-1]) == (
        2,
        f"dmimad: {path}: was changed meanwhile; look again",
    )
    assert path.read_text() == "version = 1\n"


def test_a_file_that_is_none(pair: Desk) -> None:
    change(pair)
    fifo = pair.directory / "fifo.toml"
    os.mkfifo(fifo)
    ended = pair("approve", "image", "--yes", "--file", fifo)
    assert (ended.status, "Traceback" in ended.err) == (2, False)
    latin = pair.directory / "latin.toml"
    latin.write_bytes(b"version = 1 # \xff\n")
    assert "is not UTF-8 text" in pair("approve", "image", "--yes", "--file", latin).err


def test_of_a_long_table_the_fingerprint_is_enough(desk: Desk) -> None:
    desk.kernel.create(b"many", (*linears(60), opaque()))
    desk.captured()
    desk.kernel.load(b"many", linears(60))
    desk.kernel.resume(b"many")
    ended = desk("diff")
    assert ended.status == 1
    assert "    fingerprint" in ended.out


def answering(path: Path, answer: bytes) -> threading.Thread:
    """Something that listens like a daemon, for one request."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer + b"\n")

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "answer",
    [
        b'{"v":1,"ok":true}',
        b'{"v":1,"ok":true,"configurations":{"host":"h","observed":true,"devices":[{}]}}',
        b'{"v":1,"ok":false,"error":"not today"}',
    ],
)
def test_a_daemon_that_answers_something_else(desk: Desk, answer: bytes) -> None:
    path = desk.directory / "control.sock"
    thread = answering(path, answer)
    ended = desk("capture", source="")
    thread.join(DEADLINE_SECONDS)
    assert (ended.status, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert str(path) in ended.err


def test_a_daemon_at_another_socket(desk: Desk) -> None:
    answer = {"v": 1, "ok": True, "configurations": {"host": "far", "observed": True, "devices": []}}
    path = desk.directory / "other.sock"
    thread = answering(path, json.dumps(answer).encode())
    ended = desk("capture", "--socket", path, source="")
    thread.join(DEADLINE_SECONDS)
    assert (ended.status, ended.err.splitlines()[0]) == (
        0,
        "0 devices captured, from the running daemon, by the list and the live tables",
    )
    assert ended.out.startswith("# Captured on far at ")


def test_an_entry_that_would_not_count_is_not_written(desk: Desk) -> None:
    desk.kernel.create(b"image", (linear(0),), b"LVM-1")
    path = desk.baseline / "a.toml"
    none = f'hashes = ["sha256:{"0" * 64}"]\n'
    path.write_text(
        f'version = 1\n[[device]]\nname = "image"\n{none}'
        f'[[device]]\nname = "image"\nuuid = "LVM-1"\nnot_before = 2040-01-01T00:00:00Z\n{none}'
    )
    before = path.read_bytes()
    ended = desk("approve", "image", "--yes", "--not-before", "2041-01-01T00:00:00Z")
    assert (ended.status, path.read_bytes()) == (2, before)
    assert f"the new entry would not be the one that counts, but {path}:5" in ended.err


def test_a_table_of_which_nothing_is_known_cannot_be_approved(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = LiveDevice(253, 0, b"image", b"", False, False, 0, LiveTable(None), None)  # too large to be told
    devices = captured_live(Observation((4, 48, 0), (device,)), no_names)
    found = actual.Actual(Captured("h", True, devices), "the live tables", here=True)
    monkeypatch.setattr(approve, "actual_state", lambda *_: found)
    ended = desk("approve", "image", "--yes")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("dmimad: image (253:0): nobody has told what its table is")


def test_what_cannot_be_told_is_no_approval(desk: Desk) -> None:
    desk.kernel.create(b"many", linears(37))
    desk.captured()
    assert desk("diff").status == 0
    older = Kernel("legacy")  # which does not measure the last target
    older.create(b"many", linears(37))
    path = desk.directory / "hole"
    path.write_bytes(binary_list(older.items))
    ended = desk("diff", source=path)
    assert (ended.status, ended.out.splitlines()[-1]) == (1, "1 unknown")
    assert "    nobody has told enough of its table to judge it\n" in ended.out
