"""Signed baselines: what is accepted, and every way to be refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dmimad.core.dsse import Envelope
from dmimad.core.errors import BaselineError, SignatureError
from dmimad.core.signed_baseline import (
    PAYLOAD_TYPE,
    Accepted,
    ApprovedFile,
    SignedFile,
    accept,
    last_good,
    sign_file,
    verified_serial,
)

KEYID = "ed25519:" + "a" * 32
OTHER = "ed25519:" + "b" * 32
KEYS = {
    KEYID: Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
    OTHER: Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))),
}
A, B = "/etc/b.d/a.toml", "/etc/b.d/b.toml"


def trusted(keyid: str, data: bytes, signature: bytes) -> bool:
    """Only the first key is."""
    try:
        KEYS[KEYID].public_key().verify(signature, data)
    except InvalidSignature:
        return False
    return keyid == KEYID


def text(serial: int | None, name: str = "a") -> bytes:
    lines = ["version = 1"]
    lines += [] if serial is None else [f"serial = {serial}"]
    lines += [f"[[device]]\nname = '{name}'"] if name else []
    return "\n".join(lines).encode() + b"\n"


def signed(path: str, data: bytes, keyid: str = KEYID) -> SignedFile:
    file = SignedFile(path, data, None)
    return replace(file, signatures=sign_file(file, keyid, KEYS[keyid].sign))


def sealed(path: str, data: bytes, payload_type: str = PAYLOAD_TYPE) -> SignedFile:
    """As an operator with another tool could sign what `sign_file` refuses."""
    envelope = Envelope(data, payload_type).signed_by(KEYID, KEYS[KEYID].sign)
    return SignedFile(path, data, envelope.to_json(detached=True))


def take(*files: SignedFile, after: Accepted | None = None, directory: str = "/etc/b.d") -> Accepted:
    return accept(files, directory, {} if after is None else after.files, trusted)


def refusal(*files: SignedFile, after: Accepted | None = None) -> str:
    with pytest.raises(SignatureError) as caught:
        take(*files, after=after)
    return str(caught.value)


def names(accepted: Accepted) -> list[str]:
    return [entry.name for entry in accepted.baseline.entries]


FIRST = take(signed(A, text(3)), signed(B, text(5, "b")))


def test_files_that_are_signed_are_one_baseline_and_are_remembered() -> None:
    assert names(FIRST) == ["a", "b"]
    assert FIRST.files[A] == ApprovedFile(A, 3, text(3), signed(A, text(3)).signatures or b"", True)
    assert take(signed(A, text(3)), signed(B, text(5, "b")), after=FIRST) == FIRST
    assert names(take()) == []


def test_a_newer_file_takes_the_place_of_the_former() -> None:
    second = take(signed(A, text(4, "c")), signed(B, text(5, "b")), after=FIRST)
    assert names(second) == ["c", "b"]
    assert second.files[A].serial == 4


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (SignedFile(A, text(3), None), "a.toml: is not signed: there is no .sig file"),
        (SignedFile(A, text(3), b"{"), "a.toml.sig: a signature envelope is not JSON"),
        (replace(signed(A, text(3)), data=text(4)), "a.toml.sig: is a signature of other bytes"),
        (
            signed(A, text(3), OTHER),
            f"no trusted key has signed these bytes; they claim to be signed by {OTHER}",
        ),
        (sealed(A, text(3), "application/toml"), "a.toml.sig: is not a signature of a baseline file"),
        (sealed(A, text(None)), "a.toml: serial: a signed baseline needs one"),
    ],
)
def test_what_is_not_signed_is_refused(file: SignedFile, reason: str) -> None:
    assert reason in refusal(file)


def test_a_signature_without_the_hint_is_none_for_other_bytes_either() -> None:
    document = json.loads(signed(A, text(3)).signatures or b"")
    del document["payloadSha256"]
    document["signatures"][0]["keyid"] = "\x1b[31m"
    file = SignedFile(A, text(4), json.dumps(document).encode())
    assert refusal(file).endswith("they claim to be signed by another key")


def test_an_older_file_is_refused() -> None:
    assert "serial: 2 is older than 3" in refusal(signed(A, text(2)), signed(B, text(5, "b")), after=FIRST)


def test_the_same_serial_is_the_same_file() -> None:
    told = refusal(signed(A, text(3, "c")), signed(B, text(5, "b")), after=FIRST)
    assert "serial: 3 was accepted with other content" in told


def test_an_old_file_does_not_come_back_under_a_new_name() -> None:
    both = signed(A, text(3)), signed(B, text(5, "b"))
    told = refusal(*both, signed("/etc/b.d/c.toml", text(5, "c")), after=FIRST)
    assert "c.toml: serial: a further file needs a serial above 5" in told
    assert names(take(*both, signed("/etc/b.d/c.toml", text(6, "c")), after=FIRST)) == ["a", "b", "c"]


def test_a_file_in_force_does_not_vanish() -> None:
    assert "a.toml: is gone, and is in force" in refusal(signed(B, text(5, "b")), after=FIRST)


def test_an_emptied_file_may_vanish_and_its_serial_stays() -> None:
    b = signed(B, text(5, "b"))
    emptied = take(signed(A, text(4, "")), b, after=FIRST)
    assert names(emptied) == ["b"]
    gone = take(b, after=emptied)
    assert gone.files[A] == ApprovedFile(A, 4, b"", b"", False)
    assert take(b, after=gone) == gone
    assert "4 was accepted before, and the file was retired" in refusal(signed(A, text(4, "")), b, after=gone)
    assert "3 is older than 4" in refusal(signed(A, text(3)), b, after=gone)
    assert names(take(signed(A, text(5)), b, after=gone)) == ["a", "b"]


def test_another_directory_begins_anew() -> None:
    moved = take(signed("/new/a.toml", text(1)), after=FIRST, directory="/new/")
    assert names(moved) == ["a"]
    assert [file.path for file in moved.files.values() if file.in_force] == ["/new/a.toml"]
    assert moved.files[A].serial == 3


def test_a_signed_file_that_is_no_baseline_is_refused_for_that() -> None:
    for data in (b"version = 2\n", b"\xff"):
        with pytest.raises(BaselineError) as caught:
            take(sealed(A, data), sealed(B, b"version = 3"))
        assert not isinstance(caught.value, SignatureError)
        assert caught.value.file == A
    assert "b.toml: is not signed" in refusal(sealed(A, b"version = 2\n"), SignedFile(B, text(1), None))


def test_the_last_good_one_is_verified_again() -> None:
    assert [entry.name for entry in last_good(FIRST.files.values(), trusted).entries] == ["a", "b"]
    tampered = replace(FIRST.files[A], data=text(3, "c"))
    with pytest.raises(SignatureError, match="other bytes"):
        last_good([tampered], trusted)
    with pytest.raises(SignatureError, match="no trusted key"):
        last_good(FIRST.files.values(), lambda *_: False)
    assert last_good([replace(tampered, in_force=False)], trusted).entries == ()


class TestSigning:
    def test_another_key_signs_beside_and_the_same_one_once(self) -> None:
        file = signed(A, text(3), OTHER)
        both = replace(file, signatures=sign_file(file, KEYID, KEYS[KEYID].sign))
        assert sign_file(both, KEYID, KEYS[KEYID].sign) == both.signatures
        assert [s["keyid"] for s in json.loads(both.signatures or b"")["signatures"]] == [OTHER, KEYID]
        assert verified_serial(both, trusted) == (3, (KEYID,))

    def test_signatures_of_other_bytes_are_left_out(self) -> None:
        old = replace(signed(A, text(3), OTHER), data=text(4))
        made = json.loads(sign_file(old, KEYID, KEYS[KEYID].sign))
        assert [s["keyid"] for s in made["signatures"]] == [KEYID]

    def test_signatures_of_another_kind_are_left_out(self) -> None:
        made = json.loads(sign_file(sealed(A, text(3), "x/y"), OTHER, KEYS[OTHER].sign))
        assert made["payloadType"] == PAYLOAD_TYPE
        assert [s["keyid"] for s in made["signatures"]] == [OTHER]

    @pytest.mark.parametrize(
        ("data", "reason"),
        [(text(None), "serial: a signed baseline needs one"), (b"version = 2", "must be 1")],
    )
    def test_what_could_not_be_accepted_is_not_signed(self, data: bytes, reason: str) -> None:
        with pytest.raises(BaselineError, match=reason):
            sign_file(SignedFile(A, data, None), KEYID, KEYS[KEYID].sign)
