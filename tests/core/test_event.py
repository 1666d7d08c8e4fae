"""What dm-ima writes, parsed: every form of every event in each dialect, names of any bytes, and nonsense.

The texts are those of the recorded lists, shortened, and of early 5.15 kernels, of which we have no list.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmimad.core.errors import MalformedError
from dmimad.core.event import (
    EVENT_NAMES,
    MAX_EVENT_BYTES,
    DeviceRemove,
    DeviceRename,
    DeviceResume,
    Event,
    EventKind,
    Identity,
    Metadata,
    TableClear,
    TableLoad,
    TargetUpdate,
    escape,
    parse_event,
    printable,
    unescape,
)
from tests.core.histories import BOUNDED
from tests.core.recorded import LISTS, items
from tests.core.truth import escaped, mention

DIGITS_A, DIGITS_B = b"ab" * 32, b"01" * 32
HASH_A, HASH_B = bytes.fromhex(DIGITS_A.decode()), bytes.fromhex(DIGITS_B.decode())
#: Version and how a hash is written, in each dialect.
STYLES = {"v1": (b"", b""), "legacy": (b"4.47.0", b"sha256:"), "ordered": (b"4.50.0", b"sha256:")}
METADATA = b"name=root,uuid=LVM-1,major=253,minor=7,minor_count=1,num_targets=3;"
OTHER = b"name=new,uuid=,major=253,minor=7,minor_count=1,num_targets=1;"
ROOT = Metadata(b"root", b"LVM-1", 253, 7, 3)
NEW = Metadata(b"new", b"", 253, 7, 1)
IDENTITY = b"name=root,uuid=LVM-1;"
CAPACITY = b"current_device_capacity=2048;"


def target(index: int, text: bytes = b"target_name=linear,target_version=1.4.0,start=0;") -> bytes:
    """One target as it stands in a load."""
    return b"target_index=%d,target_begin=%d,target_len=8,%s" % (index, 8 * index, text)


@pytest.fixture(params=STYLES)
def style(request: pytest.FixtureRequest) -> tuple[bytes, bytes, bytes]:
    """Version as parsed, what a text begins with, and how hashes are written."""
    version, algorithm = STYLES[request.param]
    return version, b"dm_version=" + version + b";" if version else b"", algorithm


def malformed(kind: EventKind, data: bytes) -> str:
    """The reason a text is refused."""
    with pytest.raises(MalformedError) as caught:
        parse_event(kind, data)
    return caught.value.reason


# -- names ---------------------------------------------------------------------------------


def test_event_names_tell_the_first_form() -> None:
    assert EVENT_NAMES[b"table_load"] == (EventKind.TABLE_LOAD, True)
    assert EVENT_NAMES[b"dm_table_load"] == (EventKind.TABLE_LOAD, False)
    assert EVENT_NAMES[b"dm_device_rename"] == (EventKind.DEVICE_RENAME, False)
    assert len(EVENT_NAMES) == 2 * len(EventKind) == 12
    assert b"kernel_version" not in EVENT_NAMES


@pytest.mark.parametrize(
    ("plain", "written"),
    [
        (b"", b""),
        (b"plain-name_1.2", b"plain-name_1.2"),
        (b"a,b;c=d\\e", b"a\\,b\\;c\\=d\\\\e"),
        (b"\\", b"\\\\"),
        (b";" * 127, b"\\;" * 127),
        (b"caf\xe9 bar", b"caf\xe9 bar"),
        ("größe=€".encode(), "größe\\=€".encode()),
        (b"a\0b\nc", b"a\0b\nc"),
    ],
)
def test_escape(plain: bytes, written: bytes) -> None:
    assert escape(plain) == written
    assert unescape(written) == plain


@BOUNDED
@given(st.binary(max_size=128))
def test_escape_is_the_kernels_and_goes_back(name: bytes) -> None:
    assert escape(name) == escaped(name)
    assert unescape(escape(name)) == name


def test_unescape_takes_one_backslash_at_a_time() -> None:
    assert unescape(rb"\\\\") == rb"\\"
    assert unescape(rb"\\;") == rb"\;"
    assert unescape(b"\\\n") == b"\n"
    assert unescape(b"end\\") == b"end\\"


def test_printable() -> None:
    assert printable("größe €".encode()) == "größe €"
    assert printable(b"caf\xe9") == "caf\\xe9"
    assert printable(b"a\0b") == "a\0b"


NAMES = st.one_of(
    st.binary(max_size=127),
    st.text(max_size=31).map(lambda text: text.encode("utf-8", "replace")),
    st.text("\\;=,", max_size=127).map(str.encode),
    st.sampled_from([b"target_index=0,", b"num_targets=9;", b"(null)", b"name=a,uuid=b;", b"\0" * 127]),
)


@BOUNDED
@given(
    NAMES,
    NAMES,
    st.sampled_from([b"", b"dm_version=4.50.0;"]),
    st.integers(0, 4095),
    st.integers(0, 1 << 20),
)
def test_any_name_and_uuid_is_read_back(
    name: bytes, uuid: bytes, head: bytes, major: int, minor: int
) -> None:
    identity = b"name=%s,uuid=%s" % (escaped(name), escaped(uuid))
    text = identity + b",major=%d,minor=%d,minor_count=1,num_targets=1;" % (major, minor)
    metadata = Metadata(name, uuid, major, minor, 1)
    assert metadata.device == (major, minor)
    resume = parse_event(EventKind.DEVICE_RESUME, head + text + CAPACITY)
    assert isinstance(resume, DeviceResume)
    assert resume.metadata == resume.identity == metadata
    clear = parse_event(EventKind.TABLE_CLEAR, head + identity + b";table_clear=no_data;" + CAPACITY)
    assert isinstance(clear, TableClear)
    assert (clear.metadata, clear.identity) == (None, (name, uuid))
    rename = parse_event(
        EventKind.DEVICE_RENAME,
        head + text + b"new_name=%s,new_uuid=%s;" % (escaped(uuid), escaped(name)) + CAPACITY,
    )
    assert isinstance(rename, DeviceRename)
    assert (rename.metadata, rename.new) == (metadata, (uuid, name))
    load = parse_event(EventKind.TABLE_LOAD, head + text + target(0))
    assert isinstance(load, TableLoad)
    assert (load.metadata, load.first, load.last, load.targets) == (metadata, 0, 0, 1)
    remove = parse_event(
        EventKind.DEVICE_REMOVE, head + b"device_inactive_metadata=" + text + b"remove_all=y;" + CAPACITY
    )
    assert isinstance(remove, DeviceRemove)
    assert (remove.active, remove.inactive) == (None, metadata)


# -- table load ----------------------------------------------------------------------------


def test_load_of_one_target(style: tuple[bytes, bytes, bytes]) -> None:
    version, head, _ = style
    data = head + OTHER + target(0)
    assert parse_event(EventKind.TABLE_LOAD, data) == TableLoad(version, NEW, data, 0, 0, 1)


def test_load_of_several(style: tuple[bytes, bytes, bytes]) -> None:
    version, head, _ = style
    data = head + METADATA + target(0) + target(1, b"") + target(2)
    assert parse_event(EventKind.TABLE_LOAD, data) == TableLoad(version, ROOT, data, 0, 2, 3)


def test_load_that_goes_on() -> None:
    """The second record of a long load, and the overflowing last target of the reworked kernels."""
    data = METADATA + target(1) + target(2)
    assert parse_event(EventKind.TABLE_LOAD, data) == TableLoad(b"", ROOT, data, 1, 2, 2)
    data = METADATA + target(2)
    assert parse_event(EventKind.TABLE_LOAD, data) == TableLoad(b"", ROOT, data, 2, 2, 1)


def test_load_of_opaque_targets_only() -> None:
    data = METADATA + target(0, b"") + target(1, b"") + target(2, b"")
    assert parse_event(EventKind.TABLE_LOAD, data) == TableLoad(b"", ROOT, data, 0, 2, 3)


def test_load_without_targets() -> None:
    assert parse_event(EventKind.TABLE_LOAD, METADATA) == TableLoad(b"", ROOT, METADATA, 0, -1, 0)


def test_load_counts_what_looks_like_targets() -> None:
    """Indices that make no sense are the tracker's to judge."""
    data = METADATA + target(0, b"target_name=x,a=target_index=") + target(5)
    event = parse_event(EventKind.TABLE_LOAD, data)
    assert isinstance(event, TableLoad)
    assert (event.first, event.last, event.targets) == (0, 5, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"dm_version=4.47.0;",
        b"dm_version=;" + METADATA,
        b"dm_version=" + b"4" * 33 + b";" + METADATA,
        METADATA[:-1],
        METADATA.replace(b"num_targets=3", b"num_targets="),
        METADATA.replace(b"num_targets=3", b"num_targets=-1"),
        METADATA.replace(b"minor=7", b"minor=77777777"),
        METADATA.replace(b"root", b"ro=ot"),
        METADATA.replace(b"root", b"root\\"),
        METADATA + b"x",
        METADATA + b"target_index=0,",
        METADATA + b"x" + target(0),
        METADATA + target(0) + b"target_index=1,target_begin=8",
        METADATA + target(0).replace(b"target_len=8", b"target_len=" + b"8" * 21),
    ],
)
def test_loads_that_no_kernel_writes(data: bytes) -> None:
    assert malformed(EventKind.TABLE_LOAD, data) == (
        "table_load: the event data does not follow dm-ima's format"
    )


# -- resume and clear ----------------------------------------------------------------------


def test_resume(style: tuple[bytes, bytes, bytes]) -> None:
    version, head, algorithm = style
    data = head + METADATA + b"active_table_hash=" + algorithm + DIGITS_A + b";" + CAPACITY
    expected = DeviceResume(version, ROOT, ROOT, HASH_A, 2048)
    assert parse_event(EventKind.DEVICE_RESUME, data) == expected


def test_resume_without_a_table(style: tuple[bytes, bytes, bytes]) -> None:
    version, head, _ = style
    data = head + IDENTITY + b"device_resume=no_data;" + CAPACITY
    expected = DeviceResume(version, None, Identity(b"root", b"LVM-1"), None, 2048)
    assert parse_event(EventKind.DEVICE_RESUME, data) == expected


def test_resume_with_metadata_but_no_hash() -> None:
    """Older kernels, after a rename of a device that had no table."""
    expected = DeviceResume(b"", ROOT, ROOT, None, 2048)
    assert parse_event(EventKind.DEVICE_RESUME, METADATA + CAPACITY) == expected


def test_clear(style: tuple[bytes, bytes, bytes]) -> None:
    version, head, algorithm = style
    data = head + METADATA + b"inactive_table_hash=" + algorithm + DIGITS_B + b";" + CAPACITY
    expected = TableClear(version, ROOT, ROOT, HASH_B, 2048)
    assert parse_event(EventKind.TABLE_CLEAR, data) == expected


def test_clear_with_nothing_staged(style: tuple[bytes, bytes, bytes]) -> None:
    version, head, _ = style
    data = head + IDENTITY + b"table_clear=no_data;" + CAPACITY
    expected = TableClear(version, None, Identity(b"root", b"LVM-1"), None, 2048)
    assert parse_event(EventKind.TABLE_CLEAR, data) == expected
    assert parse_event(EventKind.TABLE_CLEAR, METADATA + CAPACITY) == TableClear(b"", ROOT, ROOT, None, 2048)


@pytest.mark.parametrize("padding", [1, 3, 300])
def test_padding_of_early_kernels(padding: int) -> None:
    """5.15 left NULs of its buffers between the parts of ``no_data`` records."""
    nul = b"\0" * padding
    identity = Identity(b"root", b"LVM-1")
    clear = parse_event(EventKind.TABLE_CLEAR, IDENTITY + b"table_clear=no_data;" + nul + CAPACITY)
    assert clear == TableClear(b"", None, identity, None, 2048)
    resume = parse_event(EventKind.DEVICE_RESUME, IDENTITY + b"device_resume=no_data;" + nul + CAPACITY)
    assert resume == DeviceResume(b"", None, identity, None, 2048)
    remove = parse_event(
        EventKind.DEVICE_REMOVE,
        IDENTITY + b"device_remove=no_data;" + nul + b"remove_all=n;" + nul + CAPACITY,
    )
    assert remove == DeviceRemove(b"", None, None, identity, None, None, False, 2048)
    rename = parse_event(
        EventKind.DEVICE_RENAME,
        IDENTITY + b"device_rename=no_data;" + nul + b"new_name=n,new_uuid=u;" + nul + CAPACITY,
    )
    assert rename == DeviceRename(b"", None, False, Identity(b"n", b"u"), 2048)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        CAPACITY,
        METADATA,
        IDENTITY + CAPACITY,
        METADATA + CAPACITY + b"\0",
        METADATA + CAPACITY + b"x",
        b"x" + METADATA + CAPACITY,
        METADATA + b"active_table_hash=" + DIGITS_A[:-1] + b";" + CAPACITY,
        METADATA + b"active_table_hash=" + DIGITS_A.upper() + b";" + CAPACITY,
        METADATA + b"active_table_hash=sha1:" + DIGITS_A + b";" + CAPACITY,
        METADATA + b"inactive_table_hash=" + DIGITS_A + b";" + CAPACITY,
        IDENTITY + b"table_clear=no_data;" + CAPACITY,
        METADATA + b"current_device_capacity=" + b"9" * 21 + b";",
        METADATA + b"current_device_capacity=;",
    ],
)
def test_resumes_that_no_kernel_writes(data: bytes) -> None:
    assert malformed(EventKind.DEVICE_RESUME, data).startswith("device_resume: ")
    clear = data.replace(b"table_clear", b"device_resume").replace(b"active_table_hash", b"other_hash")
    assert malformed(EventKind.TABLE_CLEAR, clear).startswith("table_clear: ")


# -- remove --------------------------------------------------------------------------------


@pytest.mark.parametrize("active", [None, ROOT])
@pytest.mark.parametrize("inactive", [None, NEW])
@pytest.mark.parametrize("active_hash", [None, HASH_A])
@pytest.mark.parametrize("inactive_hash", [None, HASH_B])
@pytest.mark.parametrize("remove_all", [False, True])
def test_remove(
    style: tuple[bytes, bytes, bytes],
    active: Metadata | None,
    inactive: Metadata | None,
    active_hash: bytes | None,
    inactive_hash: bytes | None,
    *,
    remove_all: bool,
) -> None:
    """Each slot, with and without its hash; what has no slot at all says ``no_data``."""
    version, data, algorithm = style
    data += b"device_active_metadata=" + METADATA if active else b""
    data += b"device_inactive_metadata=" + OTHER if inactive else b""
    data += b"active_table_hash=" + algorithm + DIGITS_A + b"," if active_hash else b""
    data += b"inactive_table_hash=" + algorithm + DIGITS_B + b"," if inactive_hash else b""
    identity = None if active or inactive else Identity(b"root", b"LVM-1")
    data += IDENTITY + b"device_remove=no_data;" if identity else b""
    data += b"remove_all=y;" if remove_all else b"remove_all=n;"
    expected = DeviceRemove(version, active, inactive, identity, active_hash, inactive_hash, remove_all, 2048)
    assert parse_event(EventKind.DEVICE_REMOVE, data + CAPACITY) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"remove_all=n;" + CAPACITY,
        b"active_table_hash=" + DIGITS_A + b",remove_all=n;" + CAPACITY,
        b"device_active_metadata=" + METADATA + CAPACITY,
        b"device_active_metadata=" + METADATA + b"remove_all=x;" + CAPACITY,
        b"device_active_metadata=" + IDENTITY + b"remove_all=n;" + CAPACITY,
        b"device_inactive_metadata=%sdevice_active_metadata=%sremove_all=n;" % (OTHER, METADATA) + CAPACITY,
        b"device_active_metadata=" + METADATA + b"remove_all=n;",
        IDENTITY + b"remove_all=n;" + CAPACITY,
        METADATA + b"remove_all=n;" + CAPACITY,
    ],
)  # fmt: skip
def test_removes_that_no_kernel_writes(data: bytes) -> None:
    assert malformed(EventKind.DEVICE_REMOVE, data).startswith("device_remove: ")


# -- rename and target update --------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "metadata", "null"),
    [
        (METADATA, ROOT, False),
        (b"(null)", None, True),
        (b"device_rename=no_data;", None, False),
        (IDENTITY + b"device_rename=no_data;", None, False),
        (b"", None, False),
    ],
)
def test_rename(
    style: tuple[bytes, bytes, bytes], before: bytes, metadata: Metadata | None, *, null: bool
) -> None:
    """The old identity written before the new one is none of the new one's business."""
    version, head, _ = style
    data = head + before + b"new_name=a\\=b\\,,new_uuid=CRYPT-\\\\;" + CAPACITY
    expected = DeviceRename(version, metadata, null, Identity(b"a=b,", b"CRYPT-\\"), 2048)
    assert parse_event(EventKind.DEVICE_RENAME, data) == expected


@pytest.mark.parametrize(
    "data",
    [
        METADATA + CAPACITY,
        METADATA + b"new_name=a;" + CAPACITY,
        METADATA + b"new_name=a,new_uuid=b,c;" + CAPACITY,
        METADATA + b"(null)new_name=a,new_uuid=;" + CAPACITY,
        IDENTITY + b"new_name=a,new_uuid=;" + CAPACITY,
        b"(null)new_name=a,new_uuid=;",
    ],
)
def test_renames_that_no_kernel_writes(data: bytes) -> None:
    assert malformed(EventKind.DEVICE_RENAME, data).startswith("device_rename: ")


def test_target_update(style: tuple[bytes, bytes, bytes]) -> None:
    version, head, _ = style
    data = head + METADATA + target(0)
    assert parse_event(EventKind.TARGET_UPDATE, data) == TargetUpdate(version, ROOT, data)
    assert malformed(EventKind.TARGET_UPDATE, head + IDENTITY).startswith("target_update: ")


# -- real and hostile ----------------------------------------------------------------------


@pytest.mark.parametrize("name", LISTS)
def test_recorded_events(name: str) -> None:
    """All of them are understood, and are about whom three simple expressions say."""
    for item in items(name):
        if not item.is_dm:
            continue
        kind, first_form = EVENT_NAMES[item.event.encode()]
        assert first_form is (LISTS[name][0] == "v1")
        event, expected = parse_event(kind, item.text), mention(item)
        metadata = _metadata(event)
        assert (None if metadata is None else metadata.device) == expected.number
        if metadata is not None:
            assert (metadata.name, metadata.uuid) == expected.identity
        if isinstance(event, DeviceRename):
            assert event.new == expected.new
        if isinstance(event, DeviceResume):
            assert event.active_hash == expected.hash


def _metadata(event: Event) -> Metadata | None:
    if isinstance(event, DeviceRemove):
        return event.active or event.inactive
    return event.metadata


def test_more_than_any_kernel_writes() -> None:
    data = METADATA + target(0) + target(1, b"a" * MAX_EVENT_BYTES)
    assert malformed(EventKind.TABLE_LOAD, data) == (
        f"table_load: {len(data)} bytes of event data, more than any kernel writes"
    )
    data = METADATA + target(0, b"a" * (MAX_EVENT_BYTES - len(METADATA + target(0, b""))))
    assert len(data) == MAX_EVENT_BYTES
    assert isinstance(parse_event(EventKind.TABLE_LOAD, data), TableLoad)


KINDS = st.sampled_from(list(EventKind))
SAMPLES = [
    (EVENT_NAMES[item.event.encode()][0], item.text)
    for name in ("systematic-v1", "systematic-6.1", "systematic-7.2")
    for item in items(name)
    if item.is_dm and len(item.text) < 700
]


def understood_or_malformed(kind: EventKind, data: bytes) -> None:
    """Never anything but an event or a MalformedError."""
    try:
        event = parse_event(kind, data)
    except MalformedError as error:
        assert error.reason.startswith(kind.value)  # noqa: PT017  -- either outcome is right
    else:
        metadata = _metadata(event)
        assert metadata is None or min(metadata.device) >= 0


@BOUNDED
@given(KINDS, st.one_of(st.binary(), st.sampled_from(SAMPLES).map(lambda sample: sample[1])))
def test_random_texts(kind: EventKind, data: bytes) -> None:
    understood_or_malformed(kind, data)


@BOUNDED
@given(st.sampled_from(SAMPLES), st.data())
def test_mutated_texts(sample: tuple[EventKind, bytes], data: st.DataObject) -> None:
    """Cut, put together, with bytes replaced and put in."""
    kind, text = sample
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        until = data.draw(st.integers(at, min(at + 9, len(text))))
        put = data.draw(
            st.sampled_from([b"", b"\\", b";", b"=", b",", b"\0", b"\xff", b"9" * 12, b"target_index="])
        )
        text = text[:at] + put + text[until:]
    understood_or_malformed(kind, text)


@pytest.mark.parametrize("unit", [b"\\", b"\\\\", b"\\;", b"a", b"\0", b";", b"name=", b"(null)"])
@pytest.mark.parametrize("kind", EventKind)
def test_long_names_are_refused_or_read_at_once(kind: EventKind, unit: bytes) -> None:
    """Expressions that go back would need longer than anybody waits."""
    name = unit * (60_000 // len(unit))
    for text in (b"name=" + name, b"name=" + name + b",uuid=" + name[:4000] + b",major=1,minor=1;"):
        understood_or_malformed(kind, text)
        understood_or_malformed(kind, b"device_active_metadata=" + text)
        understood_or_malformed(kind, METADATA + b"new_name=" + text[5:])
    understood_or_malformed(kind, METADATA + (b"target_index=0," * 4000))
