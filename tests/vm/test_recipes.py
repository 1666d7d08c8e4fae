"""What the machines are made from (mirror, packages, cache), and what is read from their results."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.vm import archive
from tests.vm.cache import Cache, cache_directory, fingerprint
from tests.vm.image import Image
from tests.vm.machine import DEFAULT_TIMEOUT_SECONDS, DISK_BYTES, Hardware, Machine, environment_timeout
from tests.vm.packages import SERIES, KernelSeries, Package, newest, parse_index, series
from tests.vm.programs import VmError, run
from tests.vm.report import Report, ScenarioResult, parse_results, summary
from tests.vm.scenario_names import scenario_names
from tests.vm.sources import Mirror, deb822_mirrors, find_mirror, one_line_mirrors, stanzas

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
 http://second.example/debian
Suites: trixie trixie-updates
Components: main contrib
# a comment within
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: trixie-security
Components: main
"""


class TestSources:
    def test_deb822(self) -> None:
        keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
        assert list(deb822_mirrors(DEB822)) == [Mirror("http://mirror.example/debian", keyring)]

    @pytest.mark.parametrize(
        "changed",
        [
            ("Types: deb deb-src", "Types: deb-src"),
            ("Types: deb deb-src", "Enabled: No\nTypes: deb"),
            ("Components: main contrib", "Components: contrib"),
            ("Suites: trixie trixie-updates", "Suites: noble"),
        ],
    )
    def test_deb822_of_something_else(self, changed: tuple[str, str]) -> None:
        assert changed[0] in DEB822
        assert list(deb822_mirrors(DEB822.replace(*changed))) == []

    def test_a_key_block_survives(self) -> None:
        block = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n AAAA\n -----END PGP PUBLIC KEY BLOCK-----"
        text = f"Types: deb\nURIs: http://a.example/\nSuites: sid\nComponents: main\nSigned-By:{block}\n"
        (mirror,) = deb822_mirrors(text)
        assert list(stanzas(mirror.sources("sid"))) == list(stanzas(text))

    def test_one_line(self) -> None:
        text = """\
# deb http://commented.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb http://security.example/debian-security bookworm-security main
deb http://other.example/ubuntu noble main
deb http://contrib.example/debian bookworm contrib
deb http://flat.example/debian ./
  deb [arch=amd64 signed-by=/a.gpg,/b.gpg] http://first.example/debian  bookworm main contrib # why
deb http://second.example/debian stable main
"""
        expected = [
            Mirror("http://first.example/debian", "/a.gpg /b.gpg"),
            Mirror("http://second.example/debian"),
        ]
        assert list(one_line_mirrors(text)) == expected

    def test_files_in_apts_order(self, tmp_path: Path) -> None:
        parts = tmp_path / "sources.list.d"
        parts.mkdir()
        (parts / "b.list").write_text("deb http://b.example/debian sid main\n", encoding="utf-8")
        (parts / "a.sources.disabled").write_text(DEB822, encoding="utf-8")
        assert find_mirror(tmp_path).uri == "http://b.example/debian"
        (parts / "a.sources").write_text(DEB822, encoding="utf-8")
        assert find_mirror(tmp_path).uri == "http://mirror.example/debian"
        (tmp_path / "sources.list").write_text("deb http://main.example/debian sid main\n", encoding="utf-8")
        assert find_mirror(tmp_path).uri == "http://main.example/debian"

    def test_no_mirror(self, tmp_path: Path) -> None:
        with pytest.raises(VmError, match=r"no mirror with Debian's main in .*sources\.list"):
            find_mirror(tmp_path)

    def test_sources_of_a_mirror(self) -> None:
        text = Mirror("http://a.example/debian").sources("sid", "trixie")
        assert text == "Types: deb\nURIs: http://a.example/debian\nSuites: sid trixie\nComponents: main\n"


class TestPackages:
    def test_index(self) -> None:
        digest = "0123456789abcdef" * 4
        text = f"""\
Package: linux-image-6.1.0-50-amd64-unsigned
Version: 6.1.176-1
Description: a kernel
 of several lines
 SHA256: {"f" * 64}
Size: 1234
SHA256: {digest}

Package: no-digest
Size: 1

Package: bad-digest
Size: 1
SHA256: {digest[:-1]}

Package: bad-size
Size: many
SHA256: {digest}
"""
        expected = (Package("linux-image-6.1.0-50-amd64-unsigned", "6.1.176-1", digest, 1234),)
        assert parse_index(text) == expected

    def test_newest_is_by_number(self) -> None:
        names = [f"linux-image-6.1.0-{abi}-amd64-unsigned" for abi in (9, 50, 49)]
        others = [
            "linux-image-6.1.0-51-amd64",
            "linux-image-6.1.0-52-cloud-amd64-unsigned",
            "linux-image-6.10.0-53",
        ]
        assert newest(series("6.1"), [*names, *others]) == ("linux-image-6.1.0-50-amd64-unsigned",)

    def test_point_release_of_a_backport(self) -> None:
        names = [
            f"linux-image-6.12.{release}-amd64-unsigned"
            for release in ("9+deb13", "107+deb13", "107+deb13.1")
        ]
        assert newest(series("6.12"), names) == ("linux-image-6.12.107+deb13.1-amd64-unsigned",)

    def test_a_release_without_all_its_packages_is_not_taken(self) -> None:
        complete = [f"linux-{part}-7.2.13+deb14-amd64" for part in ("base", "modules", "binary")]
        incomplete = [f"linux-{part}-7.2.14+deb14-amd64" for part in ("base", "binary")]
        flavours = ["linux-modules-7.2.14+deb14-rt-amd64", "linux-binary-unsigned-7.2.15+deb14-amd64"]
        found = newest(series("7.2"), [*incomplete, *flavours, *complete])
        assert sorted(found) == sorted(complete)

    def test_none(self) -> None:
        with pytest.raises(VmError, match=r"the suite trixie has no kernel 6\.12"):
            newest(series("6.12"), ["linux-image-6.1.0-50-amd64-unsigned"])
        with pytest.raises(VmError, match=r"unknown kernel '5\.10': one of 6\.1, 6\.12, 7\.2"):
            series("5.10")

    @pytest.mark.parametrize("wanted", SERIES, ids=lambda one: one.name)
    def test_patterns_name_the_release(self, wanted: KernelSeries) -> None:
        assert all("(?P<release>" in pattern for pattern in wanted.packages)


class TestCache:
    def test_directory(self) -> None:
        assert cache_directory({"DMIMAD_VM_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
        assert cache_directory({"XDG_CACHE_HOME": "/b"}) == Path("/b/dmimad-vm")
        assert cache_directory({}) == Path.home() / ".cache/dmimad-vm"

    def test_fingerprint(self, tmp_path: Path) -> None:
        file = tmp_path / "recipe"
        file.write_text("ab", encoding="utf-8")
        assert fingerprint("ab", "c") != fingerprint("a", "bc")
        assert fingerprint(file) == fingerprint(b"ab") == fingerprint("ab")

    def test_made_once_per_key(self, tmp_path: Path) -> None:
        said: list[str] = []
        cache = Cache(tmp_path / "cache", said.append)
        with cache.locked():
            first = cache.part("kind", fingerprint("1"), lambda folder: _write(folder, "one"))
            again = cache.part("kind", fingerprint("1"), lambda folder: _write(folder, "again"))
            other = cache.part("kind", fingerprint("2"), lambda folder: _write(folder, "two"))
        assert (first == again, (first / "file").read_text(encoding="utf-8")) == (True, "one")
        assert (other / "file").read_text(encoding="utf-8") == "two"
        assert said == ["making kind", "making kind"]

    def test_an_interrupted_build_leaves_nothing(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path, lambda _text: None)

        def interrupted(folder: Path) -> None:
            _write(folder, "half")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), cache.locked():
            cache.part("kind", fingerprint("1"), interrupted)
        assert not list(tmp_path.glob("kind-*"))
        with cache.locked():
            assert [path.name for path in tmp_path.iterdir()] == ["lock"]
            part = cache.part("kind", fingerprint("1"), lambda folder: _write(folder, "whole"))
        assert (part / "file").read_text(encoding="utf-8") == "whole"

    def test_a_part_may_need_another(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path, lambda _text: None)

        def outer(folder: Path) -> None:
            inner = cache.part("inner", fingerprint("1"), lambda below: _write(below, "inner"))
            _write(folder, (inner / "file").read_text(encoding="utf-8") + " and outer")

        with cache.locked():
            part = cache.part("outer", fingerprint("1"), outer)
        assert (part / "file").read_text(encoding="utf-8") == "inner and outer"

    def test_only_the_last_used_are_kept(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path, lambda _text: None)
        with cache.locked():
            old, other = (cache.part("kind", fingerprint(name), lambda _folder: None) for name in "ab")
            similar = cache.part("kind-of", fingerprint("1"), lambda _folder: None)
            for seconds, place in enumerate((old, other, similar)):
                os.utime(place, (seconds, seconds))
            cache.part("kind", fingerprint("new"), lambda _folder: None)
        assert not old.exists()
        assert similar.is_dir()
        assert len(list(tmp_path.glob("kind-*"))) == 3


class TestArchive:
    def test_folders_above_come_first(self, tmp_path: Path) -> None:
        if any(not _runs(name) for name in ("cpio", "zstd")):
            pytest.skip("cpio or zstd is not installed")
        tree = tmp_path / "tree"
        for name in ("opt/a/b/file", "opt/a/pip/file", "opt/a/unwanted", "other/file"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(name, encoding="utf-8")
        (tree / "opt/a/link").symlink_to("b")
        left_out = frozenset(("opt/a/pip", "opt/a/unwanted"))
        archive.pack(tree, tmp_path / "a.cpio.zst", ("opt/a",), left_out)
        plain = subprocess.run(
            ["zstd", "-dc", tmp_path / "a.cpio.zst"], capture_output=True, check=True
        ).stdout
        names = run(("cpio", "--list", "--quiet"), stdin=plain).split()
        assert names == ["opt", "opt/a", "opt/a/link", "opt/a/b", "opt/a/b/file"]

    def test_joined_archives_are_aligned(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"12345")
        (tmp_path / "b").write_bytes(b"1234")
        archive.join((tmp_path / "a", tmp_path / "b", tmp_path / "a"), tmp_path / "all")
        assert (tmp_path / "all").read_bytes() == b"12345" + bytes(3) + b"1234" + b"12345" + bytes(3)


class TestReport:
    def test_results(self) -> None:
        text = """\
{"scenario": "one", "status": "passed", "message": "", "seconds": 1.5, "more": [1]}
{"scenario": "two", "status": "failed", "message": "why"}
{"scenario": "three", "status": "excellent"}
[1, 2]
nothing
{"scenario": "four", "stat"""
        assert parse_results(text) == {
            "one": ScenarioResult("one", "passed", "", 1.5),
            "two": ScenarioResult("two", "failed", "why", 0.0),
        }

    def test_a_scenario_of_several_boots_has_the_result_of_the_last(self) -> None:
        boots = [("continued", 3.25), ("continued", 1.0), ("passed", 2.0)]
        lines = [json.dumps({"scenario": "one", "status": status, "seconds": s}) for status, s in boots]
        assert parse_results("\n".join(lines))["one"] == ScenarioResult("one", "passed", "", 6.2)
        assert parse_results("\n".join(lines[:2]))["one"].status == "continued"

    def test_explain_a_reboot_that_went_wrong(self, tmp_path: Path) -> None:
        for folder in ("two", "two/boot-2"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "daemon.log").write_text(f"{folder}\n", encoding="utf-8")
        results = {"two": ScenarioResult("two", "continued", "", 1.0)}
        report = dataclasses.replace(_report(tmp_path, trouble="the kernel panicked: x"), results=results)
        text = report.explain("two")
        assert "it has no result: the kernel panicked: x" in text
        assert "--- the end of daemon.log\ntwo/boot-2\n" in text

    def test_explain_a_failure(self, tmp_path: Path) -> None:
        (tmp_path / "two").mkdir()
        (tmp_path / "two/daemon.log").write_text("".join(f"line {n}\n" for n in range(100)), encoding="utf-8")
        lines = _report(tmp_path).explain("two").splitlines()
        assert lines[:3] == ["kernel 7.2 (7.2.13), scenario two", "why", "--- the end of daemon.log"]
        assert (lines[3], lines[-2]) == ("line 60", "line 99")
        assert lines[-1] == f"everything is in {tmp_path / 'two'}"

    def test_explain_a_missing_result(self, tmp_path: Path) -> None:
        (tmp_path / "serial.log").write_text("Oops\n", encoding="utf-8")
        text = _report(tmp_path, trouble="the kernel panicked: x").explain("three")
        assert "it has no result: the kernel panicked: x" in text
        assert "--- the end of serial.log\nOops" in text
        assert text.endswith(f"everything is in {tmp_path}")

    def test_summary(self, tmp_path: Path) -> None:
        expected = f"7.2 (7.2.13): up after 15.0 s, 61 s in all, 1 passed, 1 failed: {tmp_path}"
        assert summary([_report(tmp_path)]) == expected


def test_after_each_boot_every_disk_has_another_place(tmp_path: Path) -> None:
    machine = Machine(Image(tmp_path, tmp_path), tmp_path, tmp_path, Hardware())
    orders = [
        re.findall(r"serial=([a-z-]+)", " ".join(machine.disks(boot)))
        for boot in range(1, len(DISK_BYTES) + 1)
    ]
    assert orders[0][0] == "vm-scratch"  # /dev/vda of the other scenarios
    for places in zip(*orders, strict=True):
        assert sorted(places) == sorted(DISK_BYTES)


def test_scenario_names(tmp_path: Path) -> None:
    for name in ("b.py", "a.py", "__init__.py", "_shared.py", "notes.md"):
        (tmp_path / name).touch()
    assert scenario_names(tmp_path) == ("a", "b")


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("1.5", 1.5), ("soon", None), ("", None)])
def test_timeout_setting(text: str, seconds: float | None) -> None:
    assert environment_timeout({"DMIMAD_VM_TIMEOUT": text}) == (seconds or DEFAULT_TIMEOUT_SECONDS)


def test_a_failing_program_is_told_with_its_last_words() -> None:
    with pytest.raises(VmError, match=r"(?s)^sh -c .* ended with 3:\n  last words$"):
        run(("sh", "-c", "echo last words; exit 3"))
    with pytest.raises(VmError, match="no-such-program is not installed"):
        run(("no-such-program",))


def _report(out: Path, trouble: str = "") -> Report:
    results = {
        "one": ScenarioResult("one", "passed", "", 1.0),
        "two": ScenarioResult("two", "failed", "why", 1.0),
    }
    return Report("7.2", "7.2.13", out, results, trouble, 15.0, 61.2)


def _write(folder: Path, text: str) -> None:
    (folder / "file").write_text(text, encoding="utf-8")


def _runs(name: str) -> bool:
    try:
        run((name, "--version"))
    except VmError:
        return False
    return True
