"""What goes over the observer's socket: there and back, and everything that is not that."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmimad.adapters.live import protocol
from dmimad.adapters.live.protocol import (
    HEADER_BYTES,
    Activity,
    Answer,
    End,
    Failure,
    Kind,
    Request,
    decode_answer,
    decode_header,
    decode_request,
    encode_activity,
    encode_failure,
    encode_observation,
    encode_request,
)
from dmimad.core.errors import AdapterError, MalformedError
from dmimad.core.observation import LiveDevice, LiveTable, LiveTarget, Observation

NO_NUL = st.integers(1, 255)
TARGETS = st.builds(
    LiveTarget,
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=16),
    st.lists(NO_NUL, max_size=40).map(bytes),
)
TABLES = st.none() | st.just(LiveTable(None)) | st.builds(LiveTable, st.lists(TARGETS, max_size=4).map(tuple))
DEVICES = st.builds(
    LiveDevice,
    st.integers(0, 4095),
    st.integers(0, 2**20 - 1),
    st.lists(NO_NUL, max_size=127).map(bytes),
    st.lists(NO_NUL, max_size=128).map(bytes),
    suspended=st.booleans(),
    read_only=st.booleans(),
    event_nr=st.integers(0, 2**32 - 1),
    active=TABLES,
    inactive=TABLES,
)
DEVICE = LiveDevice(
    253,
    70000,
    b"odd \xff",
    b"uuid",
    suspended=True,
    read_only=False,
    event_nr=3,
    active=LiveTable((LiveTarget(0, 8, "linear", b"a=b;"), LiveTarget(8, 1, "zero", b""))),
    inactive=LiveTable(None),
)


def decoded(frame: bytes) -> Answer:
    header = decode_header(frame[:HEADER_BYTES])
    assert header.body_bytes == len(frame) - HEADER_BYTES
    return decode_answer(header, frame[HEADER_BYTES:])


def frame(kind: int, body: bytes, *, magic: bytes = b"dmlv", version: int = 1) -> bytes:
    return struct.pack("!4sHHI", magic, version, kind, len(body)) + body


@settings(max_examples=60, deadline=None)
@given(st.lists(DEVICES, max_size=4))
def test_an_observation_there_and_back(devices: list[LiveDevice]) -> None:
    frames = list(encode_observation(Observation((4, 47, 1), tuple(devices))))
    assert [decoded(each) for each in frames] == [*devices, End((4, 47, 1), len(devices))]


def test_the_bytes_are_fixed() -> None:
    """Another version of dmimad may be at the other end."""
    assert encode_request(Request.OBSERVE).hex() == "646d6c760001000100000000"
    assert encode_request(Request.WATCH).hex() == "646d6c760001000200000000"
    assert encode_activity().hex() == "646d6c760001001200000000"
    first, end = encode_observation(Observation((4, 47, 1), (DEVICE,)))
    assert first.hex() == (
        "646d6c760001001000000054"
        "000000fd0001117000000003" + "1d" + "056f646420ff" + "0475756964" + "00000002"
        "00000000000000000000000000000008" + "06" + "00000004" + "6c696e656172" + "613d623b"
        "00000000000000080000000000000001" + "04" + "00000000" + "7a65726f"
    )
    assert end.hex() == "646d6c7600010011000000100000000400" + "00002f0000000100000001"


@pytest.mark.parametrize("request_", [Request.OBSERVE, Request.WATCH])
def test_requests_there_and_back(request_: Request) -> None:
    assert decode_request(encode_request(request_)) is request_


def test_other_answers_there_and_back() -> None:
    assert decoded(encode_activity()) == Activity()
    error = AdapterError("not allowed", "/dev/mapper/control", "run as root")
    assert decoded(encode_failure(Request.WATCH, error)) == Failure(
        Request.WATCH, "not allowed", "/dev/mapper/control", "run as root"
    )
    long = decoded(encode_failure(Request.OBSERVE, AdapterError("ä" * 5000, "\ud800", "")))
    assert isinstance(long, Failure)
    assert (len(long.what), long.where, long.remedy) == (500, "\\ud800", "")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1", "the client is no dmimad: it begins with b'GET '"),
        (frame(1, b"", version=2), "the client speaks version 2, this dmimad version 1; restart"),
        (frame(1, b"x")[:HEADER_BYTES], "no such request: 1 with 1 bytes"),
        (frame(0, b""), "no such request: 0"),
        (frame(16, b""), "no such request: 16"),
        (b"", "a header of 0 bytes"),
        (frame(1, b"") + b"x", "a header of 13 bytes"),
        (struct.pack("!4sHHI", b"dmlv", 1, 1, 0xFFFFFFFF), "a frame of 4294967295 bytes"),
    ],
)
def test_requests_that_are_none(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_request(data)
    assert str(caught.value).startswith(reason)


FIXED = struct.Struct("!IIIB")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (frame(1, b""), "no such answer: 1"),
        (frame(18, b"", version=7), "the observer speaks version 7, this dmimad version 1"),
        (frame(Kind.ACTIVITY, b"x"), "1 bytes too many"),
        (frame(Kind.END, b"x" * 15), "16 bytes wanted, 15 left"),
        (frame(Kind.DEVICE, b""), "13 bytes wanted"),
        (frame(Kind.DEVICE, FIXED.pack(1, 1, 1, 64) + b"\0\0"), "unknown bits 0x40"),
        (frame(Kind.DEVICE, FIXED.pack(1, 1, 1, 8) + b"\0\0"), "targets of an empty slot"),
        (
            frame(Kind.DEVICE, FIXED.pack(1, 1, 1, 0) + b"\x80" + b"n" * 200),
            "a text of 128 bytes, at most 127",
        ),
        (
            frame(Kind.DEVICE, FIXED.pack(1, 1, 1, 0) + b"\0\x81" + b"n" * 200),
            "a text of 129 bytes, at most 128",
        ),
        (frame(Kind.DEVICE, FIXED.pack(1, 1, 1, 0) + b"\1\0\0"), "a NUL inside a text"),
        (frame(Kind.DEVICE, FIXED.pack(1, 1, 1, 12) + b"\0\0" + b"\xff" * 4), "21 bytes wanted, 0 left"),
        (
            frame(
                Kind.DEVICE,
                FIXED.pack(1, 1, 1, 12) + b"\0\0" + struct.pack("!IQQBI", 1, 0, 0, 1, 0) + b"\xff",
            ),
            "a target type that is not UTF-8",
        ),
        (
            frame(
                Kind.DEVICE,
                FIXED.pack(1, 1, 1, 12) + b"\0\0" + struct.pack("!IQQBI", 1, 0, 0, 65, 0) + b"t" * 65,
            ),
            "a text of 65 bytes, at most 64",
        ),
        (frame(Kind.FAILURE, b"\x09" + b"\0" * 6), "a failure of no request"),
        (frame(Kind.FAILURE, b"\x01\xff\xff"), "a text of 65535 bytes, at most 1000"),
    ],
)
def test_answers_that_are_none(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError) as caught:
        decoded(data)
    assert str(caught.value).startswith(reason)


def test_mutations_are_answers_or_malformed() -> None:
    chance = random.Random(3)
    seeds = [
        *encode_observation(Observation((4, 50, 0), (DEVICE,))),
        encode_failure(Request.OBSERVE, AdapterError("what", "where", "remedy")),
        encode_activity(),
    ]
    malformed = 0
    for _ in range(6000):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 4)):
            match chance.randrange(3):
                case 0:
                    data[chance.randrange(len(data))] = chance.randrange(256)
                case 1:
                    del data[chance.randrange(HEADER_BYTES, len(data) + 1) :]
                case _:
                    data += chance.randbytes(chance.randrange(4))
        try:
            decode_answer(decode_header(bytes(data[:HEADER_BYTES])), bytes(data[HEADER_BYTES:]))
        except MalformedError:
            malformed += 1
    assert 1000 < malformed < 6000


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(Kind)), st.binary(max_size=80))
def test_any_body(kind: Kind, body: bytes) -> None:
    with contextlib.suppress(MalformedError):
        decode_answer(protocol.Header(kind, len(body)), body)
