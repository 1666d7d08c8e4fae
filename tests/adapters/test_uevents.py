"""The kernel's announcements: which are told, which are not, and what others may send without effect."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import ClassVar

import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from dmimad.adapters.uevents import (
    MAX_MESSAGE_BYTES,
    MESSAGES_PER_TURN,
    OVERRUN,
    Uevent,
    Uevents,
    open_netlink,
    parse,
)
from dmimad.core.errors import AdapterError

DEADLINE_SECONDS = 20.0
KERNEL = (0, 1)
LOST = Uevent(OVERRUN, -1, -1, "")


def message(action: str = "change", minor: int = 3, **others: str | None) -> bytes:
    """As a kernel sends it for a mapped device; others replace or, if None, remove a key."""
    devpath = f"/devices/virtual/block/dm-{minor}"
    fields: dict[str, str | None] = {
        "ACTION": action,
        "DEVPATH": devpath,
        "SUBSYSTEM": "block",
        "DM_COOKIE": "6355442",
        "MAJOR": "254",
        "MINOR": str(minor),
        "DEVNAME": f"dm-{minor}",
        "DEVTYPE": "disk",
        "DISKSEQ": "12",
        "SEQNUM": "4711",
        **others,
    }
    lines = [f"{action}@{fields['DEVPATH']}"]
    lines += [f"{key}={value}" for key, value in fields.items() if value is not None]
    return "".join(line + "\0" for line in lines).encode()


class Wire:
    """A stand-in for the netlink socket: senders and errors are made up, the rest is a real socket."""

    def __init__(self) -> None:
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        self.near, self.far = socket.socketpair(socket.AF_UNIX, kind)
        self.closed = 0

    def send(self, data: bytes, sender: tuple[int, int] = KERNEL) -> None:
        self.far.send(struct.pack("=Iii", 0, *sender) + data)

    def fail(self, number: int) -> None:
        self.far.send(struct.pack("=Iii", number, 0, 0))

    def fileno(self) -> int:
        return self.near.fileno()

    def recvmsg(self, bufsize: int, /) -> tuple[bytes, list[object], int, tuple[int, int]]:
        data, _, flags, _ = self.near.recvmsg(bufsize + 12)
        number, pid, group = struct.unpack_from("=Iii", data)
        if number:
            raise OSError(number, os.strerror(number))
        return data[12:], [], flags, (pid, group)

    def close(self) -> None:
        self.closed += 1
        self.near.close()
        self.far.close()


def uevents(opener: Callable[[], Wire]) -> Uevents:
    return Uevents(log=structlog.get_logger(), open_socket=opener)


async def told(wire: Wire, count: int) -> list[Uevent]:
    """The next events, and the one that is sent to see that no other was before it."""
    wire.send(message("remove", 999))
    found = []
    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(uevents(lambda: wire).events()) as events:
        async for event in events:
            if event.minor == 999:
                break
            found.append(event)
    assert len(found) == count
    assert wire.closed == 1
    return found


# -- messages ------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["add", "change", "remove"])
def test_what_the_kernel_says_of_a_mapped_device(action: str) -> None:
    assert parse(message(action, 17)) == Uevent(action, 254, 17, "dm-17")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(message(DEVNAME=None), id="the path tells the name"),
        pytest.param(message(DEVPATH="/devices/other"), id="the name alone"),
        pytest.param(message(DEVNAME="mapper/x"), id="the name is another"),
        pytest.param(message() + b"SUBSYSTEM=net\0", id="a key twice: the first counts"),
        pytest.param(message()[:-1], id="no NUL at the end"),
        pytest.param(message() + b"\0\0=\0=x\0novalue\0", id="odd fields"),
    ],
)
def test_what_is_of_a_mapped_device_all_the_same(data: bytes) -> None:
    assert parse(data) == Uevent("change", 254, 3, "dm-3")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(message(SYNTH_UUID="0"), id="udevadm trigger"),
        pytest.param(message(SYNTH_UUID="a5e0b0c2-5b3c-4a3b-8a52-7d7c3f3a1a11"), id="udev's watch"),
        pytest.param(message(SUBSYSTEM="bdi"), id="another subsystem"),
        pytest.param(message(SUBSYSTEM=None), id="no subsystem"),
        pytest.param(message(DEVNAME="sda", DEVPATH="/devices/x/block/sda"), id="another disk"),
        pytest.param(
            message(DEVNAME="dm-3p1", DEVPATH="/devices/virtual/block/dm-3/dm-3p1"), id="within one"
        ),
        pytest.param(message(DEVNAME="dm-", DEVPATH="/devices/virtual/block/dm-"), id="no number"),
        pytest.param(message(DEVNAME="dm-3\n", DEVPATH="/"), id="a line end behind the number"),
        pytest.param(message(DEVNAME="dm-99999999", DEVPATH="/"), id="too long a number"),
        pytest.param(message("explode"), id="no action of the kernel's"),
        pytest.param(message(OVERRUN), id="not for others to say"),
        pytest.param(b"libudev\0\xfe\xed\xca\xfe" + bytes(32) + message(), id="udev's own"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\0" * 100, id="NULs"),
        pytest.param(b"change", id="no path"),
        pytest.param(message().partition(b"\0")[0], id="header only"),
    ],
)
def test_what_is_not_told(data: bytes) -> None:
    assert parse(data) is None


@pytest.mark.parametrize("number", ["", "x", "-1", "1e3", "٣", "9" * 5000, " 3", "3\n"])
def test_a_number_that_is_none_is_not_told(number: str) -> None:
    assert parse(message(MAJOR=number)) == Uevent("change", -1, 3, "dm-3")


def test_a_message_is_bounded() -> None:
    long = b"add@/devices/virtual/block/dm-3\0" + b"A=\0" * MAX_MESSAGE_BYTES + message()
    assert parse(long) is None, "what is behind the limit is not looked at"


@settings(deadline=None)
@given(st.binary(max_size=2 * MAX_MESSAGE_BYTES) | st.binary().map(lambda odd: message() + odd))
@example(b"@" * MAX_MESSAGE_BYTES)
@example(b"add@\0" + b"=\0" * MAX_MESSAGE_BYTES)
def test_any_bytes_are_an_event_or_nothing(data: bytes) -> None:
    event = parse(data)
    assert event is None or (event.name.startswith("dm-") and event.action != OVERRUN)


@settings(deadline=None)
@given(st.integers(0, len(message())), st.binary(min_size=1, max_size=8))
def test_damaged_messages_neither(at: int, damage: bytes) -> None:
    data = message()
    event = parse(data[:at] + damage + data[at + len(damage) :])
    assert event is None or event.name.startswith("dm-")


# -- the stream ----------------------------------------------------------------------------


async def test_events_come_in_their_order() -> None:
    wire = Wire()
    for action, minor in (("add", 1), ("change", 1), ("change", 2), ("remove", 1)):
        wire.send(message(action, minor))
    assert await told(wire, 4) == [
        Uevent("add", 254, 1, "dm-1"),
        Uevent("change", 254, 1, "dm-1"),
        Uevent("change", 254, 2, "dm-2"),
        Uevent("remove", 254, 1, "dm-1"),
    ]


async def test_events_are_told_when_they_come() -> None:
    wire = Wire()
    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(uevents(lambda: wire).events()) as events:
        for minor in range(3):
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            assert not waiting.done()
            wire.send(message(minor=minor))
            assert (await waiting).minor == minor


async def test_what_comes_before_the_first_look_is_kept_from_listen_on() -> None:
    wire = Wire()
    opened = []

    def opener() -> Wire:
        opened.append(wire)
        return wire

    source = uevents(opener)
    source.listen()
    source.listen()
    wire.send(message(minor=5))
    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(source.events()) as events:
        assert (await anext(events)).minor == 5
    assert opened == [wire]
    assert wire.closed == 1


def test_close_without_a_look() -> None:
    wire = Wire()
    source = uevents(lambda: wire)
    source.close()
    source.listen()
    source.close()
    source.close()
    assert wire.closed == 1


@pytest.mark.parametrize(
    "sender",
    [
        pytest.param((4242, 1), id="another process, to the kernel's group"),
        pytest.param((4242, 0), id="another process, to us"),
        pytest.param((0, 2), id="udev's group"),
        pytest.param((0, 0), id="the kernel, to us alone"),
        pytest.param((-1, 1), id="a pid beyond 2^31"),
    ],
)
async def test_what_others_send_has_no_effect(sender: tuple[int, int]) -> None:
    wire = Wire()
    wire.send(message(minor=1), sender)
    wire.send(bytes(MAX_MESSAGE_BYTES + 1), sender)
    wire.send(message(minor=2))
    assert await told(wire, 1) == [Uevent("change", 254, 2, "dm-2")]


async def test_the_kernel_had_to_drop_events() -> None:
    wire = Wire()
    wire.send(message(minor=1))
    wire.fail(errno.ENOBUFS)
    wire.send(message(minor=2))
    with capture_logs() as logged:
        found = await told(wire, 3)
    assert [event.minor for event in found] == [1, -1, 2]
    assert found[1] == LOST
    assert [line["event"] for line in logged] == ["uevents_lost"]


async def test_a_message_longer_than_any_is_said_to_be_lost() -> None:
    wire = Wire()
    wire.send(message(DM_COOKIE="x" * MAX_MESSAGE_BYTES))
    wire.send(message(minor=2))
    assert await told(wire, 2) == [LOST, Uevent("change", 254, 2, "dm-2")]


async def test_a_flood_lets_others_have_their_turn() -> None:
    """One turn takes `MESSAGES_PER_TURN` messages, also if none of them is of interest."""
    wire, turns, count = Wire(), 0, 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    while count < 10 * MESSAGES_PER_TURN:
        try:
            wire.send(b"change@/devices/x")
        except BlockingIOError:
            break
        count += 1
    batches = count // MESSAGES_PER_TURN
    assert batches >= 2, "the socket holds too little for this test"
    wire.near.recv(1 << 16)  # room for the last one
    beside = asyncio.ensure_future(others())
    await told(wire, 0)
    beside.cancel()
    assert turns >= batches


async def test_an_error_of_the_socket_ends_it_in_one_line() -> None:
    wire = Wire()
    wire.fail(errno.ENETDOWN)
    with pytest.raises(AdapterError, match=r"uevents: cannot receive: Network is down; set live\.wake_ups"):
        await told(wire, 0)
    assert wire.closed == 1


@pytest.mark.parametrize("number", [errno.EPERM, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT])
async def test_where_there_are_no_uevents(number: int) -> None:
    def refuse() -> Wire:
        raise OSError(number, os.strerror(number))

    with pytest.raises(AdapterError) as refused:
        await anext(uevents(refuse).events())
    assert refused.value.where == "uevents"
    assert os.strerror(number) in refused.value.what
    assert "RestrictAddressFamilies=" in refused.value.remedy
    assert "\n" not in str(refused.value)


async def test_cancelled_it_leaves_nothing_open() -> None:
    wire = Wire()
    events: AsyncGenerator[Uevent, None] = uevents(lambda: wire).events()
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    descriptor = wire.fileno()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert wire.closed == 1
    assert not asyncio.get_running_loop().remove_reader(descriptor)


# -- the real socket -----------------------------------------------------------------------


@pytest.fixture
def netlink() -> None:
    try:
        open_netlink().close()
    except OSError as error:
        pytest.skip(f"no uevents in this place: {error}")


class Refused(socket.socket):
    """Opened, but not let into the group."""

    made: ClassVar[list[Refused]] = []

    def bind(self, address: object, /) -> None:
        self.made.append(self)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.usefixtures("netlink")
async def test_a_socket_that_may_not_listen_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", Refused)
    with pytest.raises(AdapterError, match="Operation not permitted"):
        Uevents(log=structlog.get_logger()).listen()
    assert [refused.fileno() for refused in Refused.made] == [-1]


@pytest.mark.usefixtures("netlink")
async def test_the_real_socket_listens_and_is_closed() -> None:
    source = Uevents(log=structlog.get_logger())
    source.listen()
    async with aclosing(source.events()) as events:
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    source.close()


@pytest.mark.usefixtures("netlink")
def test_the_real_socket_does_not_wait_and_knows_its_senders() -> None:
    """Another process's socket can send to ours: the sender's number is its own, not the kernel's."""
    with open_netlink() as ours, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as theirs:
        with pytest.raises(BlockingIOError):
            ours.recvmsg(MAX_MESSAGE_BYTES)
        theirs.bind((0, 0))
        try:
            theirs.sendto(message(), (ours.getsockname()[0], 0))
        except OSError as error:
            pytest.skip(f"this process may not send: {error}")
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            try:
                data, _, _, sender = ours.recvmsg(MAX_MESSAGE_BYTES)
            except BlockingIOError:
                continue
            if data == message():
                break
        assert data == message()
        assert sender == (theirs.getsockname()[0], 0)
        assert sender != KERNEL
        assert not os.get_inheritable(ours.fileno())
