"""Approving as docs/approving.md tells it: its own commands, with the real daemon, on a list that grows."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from dmimad.adapters.control.client import ask
from dmimad.core.baseline import parse_baseline
from dmimad.core.capture import read_configurations
from tests.broker import free_port
from tests.core.kernel import Kernel, Target, linear, linears
from tests.core.lists import binary_record
from tests.service.daemon_process import DEADLINE_SECONDS, DaemonProcess, running
from tests.service.host import Host

PAGE = Path(__file__).parents[2] / "docs/approving.md"


def verity(root: str) -> tuple[Target, ...]:
    text = "target_name=verity,target_version=1.9.0,hash_failed=V,verity_version=1,data_device_name=254:0"
    return (Target(64, f"{text},hash_device_name=1:2,root_digest={root},salt=ab;".encode()),)


class Story:
    """A host whose device-mapper is the model's, and the commands of the documentation."""

    def __init__(self, directory: Path) -> None:
        self.host = Host(directory, free_port())
        self.host.configure(mqtt={"enabled": False})
        self.kernel = Kernel("ordered")
        self.kernel.create(b"vg0-image", (linear(0, sectors=64),), b"LVM-1")
        self.kernel.create(b"image-ro", verity("aa"))
        self._written = 0
        self.write()

    def write(self) -> None:
        items = self.kernel.items[self._written :]
        self.host.append(b"".join(binary_record(item) for item in items))
        self._written += len(items)

    async def run(self, line: str) -> tuple[int, str, str]:
        """A line of the documentation, in this host's directory."""
        words = shlex.split(line.replace("/etc/dmimad/baseline.d", str(self.host.baseline)))
        if words[0] == "dmsetup":
            getattr(self, words[1])(words[2].encode())
            self.write()
            await self.read()
            return 0, "", ""
        assert words[0] == "dmimad"
        place = 3 if words[1] in ("baseline", "maintenance") else 2
        words[place:place] = ["--config", str(self.host.settings)]
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "dmimad.cli", *words[1:]],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(DEADLINE_SECONDS):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    def load(self, name: bytes) -> None:
        self.kernel.load(name, verity("bb"))

    def resume(self, name: bytes) -> None:
        self.kernel.resume(name)

    async def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = await asyncio.to_thread(ask, self.host.socket, {"request": "status"})
        status: dict[str, Any] = answer["status"]
        return status

    async def read(self) -> None:
        """Until the daemon has read all of the list."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (await self.status())["list"]["position"] != self._written:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.02)  # between two looks

    async def judged(self, verdict: str) -> None:
        """Until the daemon has that verdict of image-ro."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await self.verdict() != verdict:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.02)  # between two looks

    async def verdict(self) -> str:
        devices = {each["name"]: each["verdict"] for each in (await self.status())["devices"]}
        return str(devices["image-ro"])


def recipe(title: str) -> list[list[str]]:
    """The commands of a section, block by block."""
    section = PAGE.read_text("utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    blocks: list[list[str]] = []
    before = ""
    for line in section.splitlines():
        if line.startswith("    "):
            if not before.startswith("    "):
                blocks.append([])
            blocks[-1].append(line.strip())
        before = line
    return blocks


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path / "host")


async def loud(daemon: DaemonProcess) -> list[str]:
    """Alerts above info that the daemon has fired."""
    fired = daemon.logged("alert")
    return [each["code"] for each in fired if each["level"] != "info" and each["status"] == "firing"]


async def test_a_host_is_approved_in_one_minute(story: Story) -> None:
    (commands,) = recipe("Approve a host in one minute")
    async with running(story.host.settings) as daemon:
        await story.read()
        assert await story.verdict() == "unknown"
        capture, diff = commands
        status, out, err = await story.run(capture)
        assert (status, out) == (0, ""), err
        assert "2 devices captured, from the running daemon, by the list alone" in err
        await story.judged("approved")
        status, out, err = await story.run(diff)
        assert (status, out.splitlines()[-1]) == (0, "2 approved"), err
        assert await loud(daemon) == []
    text = (story.host.baseline / "host.toml").read_text("utf-8")
    assert "# Captured on web-1 at " in text
    names = [entry.label for entry in parse_baseline(text, "host.toml").entries]
    assert names == ["image-ro", "vg0-image"]
    assert "# image-ro (254:1): dm-verity, data on vg0-image, hash tree on 1:2, 32 KiB" in text


async def test_a_change_is_rolled_out_without_an_alert(story: Story) -> None:
    change, over = recipe("Roll out a change without an alert")
    async with running(story.host.settings) as daemon:
        await story.read()
        await story.run(recipe("Approve a host in one minute")[0][0])
        await story.judged("approved")
        for command in change:
            status, out, err = await story.run(command)
            assert status == 0, (command, out, err)
            if "approve" in command:
                await story.judged("approved")
        assert await story.verdict() == "approved"
        for start in ("aa", "bb"):  # back, and forth again
            story.kernel.load(b"image-ro", verity(start))
            story.kernel.resume(b"image-ro")
            story.write()
            await story.read()
            assert await story.verdict() == "approved"
        for command in over:
            status, out, err = await story.run(command)
            assert status == 0, (command, out, err)
        assert await loud(daemon) == []
        # What is not approved any more is told.
        story.kernel.load(b"image-ro", verity("cc"))
        story.write()
        await daemon.wait_for_log("alert", len(daemon.logged("alert")) + 1)
        await story.judged("drift")
        status, out, err = await story.run("dmimad baseline diff")
        assert (status, err) == (
            1,
            "note: the daemon does not look at the live tables: the list alone may lack "
            "a return to a former table\n",
        )
        assert "    the staged table\n" in out
        assert "      root_digest       bb                           cc\n" in out
        assert "drift.inactive" in await loud(daemon)


async def test_what_the_daemon_tells_is_what_the_list_says(story: Story) -> None:
    story.kernel.create(b"many", linears(200))
    story.write()
    async with running(story.host.settings):
        await story.read()
        answer = await asyncio.to_thread(ask, story.host.socket, {"request": "configurations"})
    found = read_configurations(answer["configurations"])
    assert (found.host, found.observed) == ("web-1", False)
    targets = {one.name: one.active.configuration.targets for one in found.devices if one.active is not None}
    assert {name: len(each) for name, each in targets.items()} == {"image-ro": 1, "many": 200, "vg0-image": 1}
