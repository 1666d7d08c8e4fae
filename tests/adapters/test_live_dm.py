"""What the kernel is asked, and what is made of its answers, wrong ones included."""

from __future__ import annotations

import errno
import random
import select
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from dmimad.adapters.live import dm
from dmimad.adapters.live.dm import DmControl, decode_device_number, encode_device_number
from dmimad.core.errors import AdapterError
from dmimad.core.observation import LiveDevice, LiveTable, LiveTarget
from tests.adapters import live_kernel
from tests.adapters.live_kernel import Asked, ModelDevice, ModelKernel, ModelTarget, example, linear


def control(kernel: ModelKernel, **limits: int) -> DmControl:
    return DmControl(Path("/dev/mapper/control"), opener=kernel.open, ioctl=kernel.ioctl, **limits)


def observed(kernel: ModelKernel, **limits: int) -> dict[tuple[int, int], LiveDevice]:
    asking = control(kernel, **limits)
    try:
        observation = asking.observe()
    finally:
        asking.close()
    return {(device.major, device.minor): device for device in observation.devices}


def expected(table: tuple[ModelTarget, ...]) -> LiveTable:
    return LiveTable(tuple(LiveTarget(t.begin, t.length, t.type.decode(), t.text) for t in table))


def test_everything_is_told() -> None:
    kernel = example()
    devices = observed(kernel)
    assert list(devices) == sorted(kernel.devices)
    assert devices[253, 0] == LiveDevice(
        253,
        0,
        b"lin",
        b"LVM-uuid;=,",
        suspended=False,
        read_only=False,
        event_nr=0,
        active=LiveTable(
            (LiveTarget(0, 8, "linear", b"target_name=linear,target_version=1.4.0,device_name=7:0,start=0;"),)
        ),
        inactive=None,
    )
    odd = devices[253, 1]
    assert (odd.name, odd.suspended, odd.event_nr) == (b"odd \xc3\xa4\xff;=,\\", True, 7)
    assert odd.active == expected((live_kernel.ZERO, live_kernel.CRYPT))
    staged = devices[253, 2]
    assert staged.active == LiveTable((LiveTarget(0, 8, "zero", b""),))
    assert staged.inactive == LiveTable((LiveTarget(0, 8, "error", b""),))
    assert (devices[253, 3].active, devices[253, 3].inactive) == (None, expected((linear(0, 8, 5),)))
    bare = devices[253, 4]
    assert (bare.name, bare.uuid, bare.active, bare.inactive) == (b"n" * 127, b"u" * 128, None, None)
    assert devices[253, 70000].read_only


def test_the_version_is_the_kernels() -> None:
    kernel = ModelKernel(version=(4, 50, 1))
    observation = control(kernel).observe()
    assert observation.dm_version == (4, 50, 1)
    assert observation.devices == ()


def test_the_volume_key_is_never_asked_for() -> None:
    kernel = example()
    devices = observed(kernel)
    assert all(not asked.flags & live_kernel.TABLE_FORM for asked in kernel.asked)
    tables = [asked for asked in kernel.asked if asked.request == live_kernel.DM_TABLE_STATUS]
    assert tables
    assert all(asked.flags & live_kernel.IMA and asked.flags & live_kernel.NOFLUSH for asked in tables)
    assert live_kernel.VOLUME_KEY not in repr(devices).encode()
    reads = {live_kernel.DM_VERSION, live_kernel.DM_LIST_DEVICES, live_kernel.DM_DEV_STATUS}
    assert {asked.request for asked in kernel.asked} == reads | {live_kernel.DM_TABLE_STATUS}


def test_the_requests_are_the_kernels_numbers() -> None:
    # As _IOWR(0xfd, n, struct dm_ioctl) of linux/dm-ioctl.h makes them.
    assert (dm.DM_VERSION, dm.DM_LIST_DEVICES, dm.DM_DEV_STATUS) == (0xC138FD00, 0xC138FD02, 0xC138FD07)
    assert (dm.DM_TABLE_STATUS, dm.DM_DEV_ARM_POLL) == (0xC138FD0C, 0xC138FD10)


@pytest.mark.parametrize(
    ("major", "minor", "number"),
    [(253, 0, 0xFD00), (253, 255, 0xFDFF), (254, 256, 0x10FE00), (8, 70000, 0x11100870)],
)
def test_device_numbers(major: int, minor: int, number: int) -> None:
    assert encode_device_number(major, minor) == number
    assert decode_device_number(number) == (major, minor)


def test_a_long_table_is_asked_for_again_with_a_larger_buffer() -> None:
    table = tuple(linear(index, 1) for index in range(1000))
    kernel = ModelKernel({(253, 0): ModelDevice(b"many", active=table)})
    assert observed(kernel)[253, 0].active == expected(table)
    sizes = [asked.size for asked in kernel.asked if asked.request == live_kernel.DM_TABLE_STATUS]
    assert sizes == [16 << 10, 32 << 10, 64 << 10, 128 << 10]


def test_many_devices_are_listed_with_a_larger_buffer() -> None:
    kernel = ModelKernel({(253, minor): ModelDevice(b"d%d" % minor) for minor in range(3000)})
    assert [device.name for device in observed(kernel).values()] == [b"d%d" % minor for minor in range(3000)]


def test_a_table_beyond_all_buffers_is_present_and_untold() -> None:
    table = tuple(linear(index, 1) for index in range(1000))
    kernel = ModelKernel(
        {(253, 0): ModelDevice(b"many", active=table), (253, 1): ModelDevice(b"few", active=table[:3])}
    )
    devices = observed(kernel, max_buffer_bytes=40 << 10)
    assert devices[253, 0].active == LiveTable(None)
    assert devices[253, 1].active == expected(table[:3])
    assert max(asked.size for asked in kernel.asked) == 40 << 10


def test_the_largest_tables_are_given_up_first() -> None:
    tables = {minor: tuple(linear(index, 1) for index in range(minor)) for minor in (1, 90, 2, 80, 3)}
    kernel = ModelKernel({(253, minor): ModelDevice(b"d", active=table) for minor, table in tables.items()})
    devices = observed(kernel, max_told_bytes=10_000)
    told = {minor for (_, minor), device in devices.items() if device.active != LiveTable(None)}
    assert told == {1, 2, 3, 80}
    assert devices[253, 80].active == expected(tables[80])


def test_too_many_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dm, "MAX_DEVICES", 5)
    with pytest.raises(AdapterError, match="more than 5 mapped devices"):
        observed(example())


def change_at(asked_for: int, number: int, change: Callable[[], None]) -> Callable[[Asked], None]:
    """Call `change` before the request of that sort about that device is met, once."""
    todo = [change]

    def before(asked: Asked) -> None:
        if todo and asked.request == asked_for and asked.number == number:
            todo.pop()()

    return before


@pytest.mark.parametrize("request_number", [live_kernel.DM_DEV_STATUS, live_kernel.DM_TABLE_STATUS])
def test_a_device_that_vanishes_is_left_out(request_number: int) -> None:
    kernel = example()
    kernel.before = change_at(request_number, 0xFD00, lambda: kernel.devices.__delitem__((253, 0)))
    devices = observed(kernel)
    assert (253, 0) not in devices
    assert len(devices) == 5


def test_a_device_whose_number_is_reused_while_it_is_read_is_read_again() -> None:
    kernel = example()
    new = ModelDevice(b"other", active=(live_kernel.ZERO,))
    kernel.before = change_at(
        live_kernel.DM_TABLE_STATUS, 0xFD00, lambda: kernel.devices.update({(253, 0): new})
    )
    device = observed(kernel)[253, 0]
    assert (device.name, device.uuid, device.active) == (b"other", b"", expected((live_kernel.ZERO,)))


def test_a_resume_between_the_two_tables_is_not_told_by_halves() -> None:
    kernel = example()
    staged = kernel.devices[253, 2]

    def resume() -> None:
        staged.active, staged.inactive = staged.inactive, None

    def before(asked: Asked) -> None:
        if asked.flags & live_kernel.QUERY_INACTIVE and asked.number == 0xFD02 and staged.inactive:
            resume()

    kernel.before = before
    device = observed(kernel)[253, 2]
    assert (device.active, device.inactive) == (LiveTable((LiveTarget(0, 8, "error", b""),)), None)


def test_a_device_that_never_rests_is_read_so_often_and_not_more() -> None:
    kernel = ModelKernel({(253, 0): ModelDevice(b"busy", active=(live_kernel.ZERO,))})

    def before(asked: Asked) -> None:
        kernel.devices[253, 0].name += b"!"

    kernel.before = before
    assert observed(kernel)[253, 0].name.startswith(b"busy!")
    assert sum(asked.request == live_kernel.DM_TABLE_STATUS for asked in kernel.asked) == dm.MAX_READINGS


def test_an_old_kernel_is_named() -> None:
    kernel = ModelKernel(version=(4, 44, 0))
    with pytest.raises(AdapterError, match=r"/dev/mapper/control: device-mapper 4\.44\.0 .*; Linux 5\.15"):
        control(kernel).observe()
    with pytest.raises(AdapterError, match="Linux 5"):
        control(kernel).check()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOENT, "no such file; load device-mapper: modprobe dm_mod"),
        (errno.ENODEV, "the kernel has no device-mapper; load it: modprobe dm_mod"),
        (errno.EACCES, "not allowed to ask device-mapper; run the observer as root"),
        (errno.EPERM, "not allowed to ask device-mapper; run the observer as root"),
        (errno.ENOTTY, "not device-mapper's control node"),
        (errno.EIO, "Input/output error; see the kernel's log"),
    ],
)
def test_refusals_are_one_clear_line(number: int, text: str) -> None:
    kernel = ModelKernel(refusal=number)
    for ask in (control(kernel).observe, control(kernel).check, control(kernel).watch):
        with pytest.raises(AdapterError) as caught:
            ask()
        assert str(caught.value).startswith("/dev/mapper/control: " + text)
        assert "\n" not in str(caught.value)


def test_after_a_refusal_it_is_opened_again() -> None:
    kernel = example()
    asking = control(kernel)

    def refuse(asked: Asked) -> None:
        raise PermissionError(errno.EACCES, "no")

    kernel.before = refuse
    with pytest.raises(AdapterError):
        asking.observe()
    kernel.before = lambda asked: None
    assert len(asking.observe().devices) == 6
    assert len(kernel.open_files) == 2
    asking.close()


def u32(offset: int, value: int) -> Callable[[bytearray], None]:
    return lambda buffer: struct.pack_into("=I", buffer, offset, value)


SPEC_NEXT, LIST_NEXT = 312 + 20, 312 + 8


@pytest.mark.parametrize(
    ("request_number", "damage"),
    [
        (live_kernel.DM_TABLE_STATUS, u32(20, 1 << 31)),  # target_count
        (live_kernel.DM_TABLE_STATUS, u32(20, 3)),
        (live_kernel.DM_TABLE_STATUS, u32(16, 4)),  # data_start
        (live_kernel.DM_TABLE_STATUS, u32(16, 0xFFFFFFF0)),
        (live_kernel.DM_TABLE_STATUS, u32(12, 330)),  # data_size
        (live_kernel.DM_TABLE_STATUS, u32(SPEC_NEXT, 0)),
        (live_kernel.DM_TABLE_STATUS, u32(SPEC_NEXT, 0xFFFFFFFF)),
        (live_kernel.DM_LIST_DEVICES, u32(LIST_NEXT, 1)),
        (live_kernel.DM_LIST_DEVICES, u32(LIST_NEXT, 0xFFFFFFF0)),
        (live_kernel.DM_LIST_DEVICES, u32(12, 320)),
        (live_kernel.DM_LIST_DEVICES, u32(16, 4)),
        (live_kernel.DM_DEV_STATUS, lambda buffer: buffer.__setitem__(slice(48, 176), b"n" * 128)),
        (live_kernel.DM_DEV_STATUS, lambda buffer: buffer.__setitem__(slice(176, 305), b"u" * 129)),
    ],
)
def test_answers_that_make_no_sense_are_refused(
    request_number: int, damage: Callable[[bytearray], None]
) -> None:
    table = (linear(0, 1), linear(1, 1))
    kernel = ModelKernel({(253, minor): ModelDevice(b"d%d" % minor, active=table) for minor in range(2)})
    kernel.damage = lambda request, buffer: damage(buffer) if request == request_number else None
    with pytest.raises(AdapterError, match="answer makes no sense"):
        observed(kernel)


def test_any_damage_ends_in_an_observation_or_an_error() -> None:
    chance = random.Random(5)

    def damage(request: int, buffer: bytearray) -> None:
        if request == live_kernel.DM_VERSION:
            return
        for _ in range(chance.randrange(3)):
            offset = chance.choice(
                (chance.randrange(48), chance.randrange(len(buffer)), 312 + chance.randrange(64))
            )
            if offset < len(buffer):
                buffer[offset] = chance.randrange(256)

    outcomes = set()
    for _ in range(600):
        kernel = example()
        kernel.damage = damage
        try:
            outcomes.add(len(observed(kernel)))
        except AdapterError:
            outcomes.add(-1)
    assert -1 in outcomes
    assert 6 in outcomes


def test_text_without_its_end_is_refused() -> None:
    kernel = ModelKernel({(253, 0): ModelDevice(b"d", active=(linear(0, 1),))})

    def damage(request: int, buffer: bytearray) -> None:
        if request == live_kernel.DM_TABLE_STATUS:
            (size,) = struct.unpack_from("=I", buffer, 12)
            buffer[size - 1] = ord("x")

    kernel.damage = damage
    with pytest.raises(AdapterError, match="text without its end"):
        observed(kernel)


def test_a_type_of_full_length_or_odd_bytes() -> None:
    table = (ModelTarget(0, 1, b"t" * 16), ModelTarget(1, 1, b"\xff"))
    device = observed(ModelKernel({(253, 0): ModelDevice(b"d", active=table)}))[253, 0]
    assert device.active == LiveTable((LiveTarget(0, 1, "t" * 16, b""), LiveTarget(1, 1, "�", b"")))


def test_the_watch_wakes_once_per_arming() -> None:
    kernel = ModelKernel()
    watch = control(kernel).watch()

    def awake() -> bool:
        return bool(select.select([watch], [], [], 0)[0])

    watch.arm()
    assert not awake()
    kernel.event()
    kernel.event()
    assert awake()
    watch.arm()
    assert not awake()
    kernel.before = lambda asked: (_ for _ in ()).throw(OSError(errno.EINVAL, "no"))
    with pytest.raises(AdapterError, match="no; see the kernel's log"):
        watch.arm()
    watch.close()
    watch.close()


def test_a_real_ioctl_is_made(tmp_path: Path) -> None:
    """On a file that is not device-mapper's, which is all that is certain to be here."""
    other = tmp_path / "control"
    other.touch()
    with pytest.raises(AdapterError, match="not device-mapper's control node"):
        DmControl(other).observe()
    with pytest.raises(AdapterError, match="no such file"):
        DmControl(tmp_path / "none").observe()
