"""DSSE against its own test vector and an implementation that is not ours, and against hostile bytes."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.signer import SSlibKey

from dmimad.core.dsse import (
    MAX_ENVELOPE_BYTES,
    MAX_NAME_CHARS,
    MAX_SIGNATURES,
    Envelope,
    Signature,
    decode_base64,
    encode_base64,
    pae,
)
from dmimad.core.errors import MalformedError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TYPE = "application/vnd.example+text"


def envelope(**changes: object) -> bytes:
    document = {"payload": "aGk=", "payloadType": TYPE, "signatures": [{"keyid": "k", "sig": "c2ln"}]}
    return json.dumps({name: value for name, value in (document | changes).items() if value != ""}).encode()


def test_what_is_signed_is_that_of_the_specification() -> None:
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("http://example.com/HelloWorld", b"hello world") == expected
    assert pae("ü", b"\x00 1") == b"DSSEv1 2 \xc3\xbc 3 \x00 1"
    assert pae("", b"") == b"DSSEv1 0  0 "


@given(st.binary(max_size=200), st.text(max_size=20).filter(str.isprintable))
def test_another_implementation_verifies_ours(payload: bytes, kind: str) -> None:
    ours = Envelope(payload, kind).signed_by("k", KEY.sign)
    other = OtherEnvelope.from_dict(json.loads(ours.to_json()))
    assert (other.payload, other.payload_type) == (payload, kind)
    key = SSlibKey.from_crypto(KEY.public_key(), keyid="k")
    assert other.verify([key], 1) == {"k": key}
    assert Envelope.from_json(json.dumps(other.to_dict()).encode()) == ours


def test_a_detached_envelope_is_of_the_bytes_given_with_it() -> None:
    made = Envelope(b"hi", TYPE).signed_by("k", KEY.sign)
    text = made.to_json(detached=True)
    assert "payload" not in json.loads(text)
    assert Envelope.from_json(text, payload=b"hi") == made
    with pytest.raises(MalformedError, match="other bytes: the file was changed since"):
        Envelope.from_json(text, payload=b"ho")
    with pytest.raises(MalformedError, match="payload of its own"):
        Envelope.from_json(made.to_json(), payload=b"hi")
    without_hint = envelope(payload="")
    assert Envelope.from_json(without_hint, payload=b"ho").payload == b"ho"


def test_a_key_signs_once_and_beside_others() -> None:
    signed = Envelope(b"hi", TYPE, (Signature("a", b"old"), Signature("b", b"other")))
    again = signed.signed_by("a", lambda data: b"new:" + data[:6])
    assert again.signatures == (Signature("b", b"other"), Signature("a", b"new:DSSEv1"))


def test_signers_are_the_trusted_keys_with_a_valid_signature_each_once() -> None:
    signatures = tuple(Signature(*pair) for pair in (("a", b"1"), ("b", b"2"), ("a", b"3"), ("c", b"4")))
    signed = Envelope(b"hi", TYPE, signatures)
    asked: list[tuple[str, bytes, bytes]] = []

    def verify(keyid: str, data: bytes, signature: bytes) -> bool:
        asked.append((keyid, data, signature))
        return keyid != "b"

    assert signed.signers(verify) == ("a", "c")
    assert asked[1] == ("b", pae(TYPE, b"hi"), b"2")
    assert signed.signers(lambda *_: False) == ()


def test_unknown_members_and_a_missing_key_id_are_fine() -> None:
    text = envelope(more=1, signatures=[{"sig": "c2ln", "cert": "x"}])
    assert Envelope.from_json(text) == Envelope(b"hi", TYPE, (Signature("", b"sig"),))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"[" * 20_000, "is not JSON"),
        (b'{"payload":"aGk=","payload":"aGk="}', "is not JSON"),
        (b" " * (MAX_ENVELOPE_BYTES + 1), "is larger than"),
        (envelope(payload=1), "payload is not base64"),
        (envelope(payload=""), "payload is not base64"),
        (envelope(payload="aGk"), "payload is not base64"),
        (envelope(payloadType=1), "payloadType is not a short text"),
        (envelope(payloadType="x" * (MAX_NAME_CHARS + 1)), "payloadType is not a short text"),
        (envelope(signatures=[]), "has 0 signatures"),
        (envelope(signatures=[{"sig": "c2ln"}] * (MAX_SIGNATURES + 1)), "has 17 signatures, not 1 to 16"),
        (envelope(signatures={}), "no list of signatures"),
        (envelope(signatures=["c2ln"]), "no list of signatures"),
        (envelope(signatures=""), "no list of signatures"),
        (envelope(signatures=[{"keyid": 1, "sig": "c2ln"}]), "keyid is not a short text"),
        (envelope(signatures=[{"keyid": "k"}]), "a signature is not base64"),
        (envelope(signatures=[{"keyid": "k", "sig": ""}]), "a signature is empty"),
        (envelope(signatures=[{"sig": "AAAA" * 400}]), "a signature is empty or too long"),
    ],
)
def test_what_is_no_envelope_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        Envelope.from_json(data)


@given(st.binary(max_size=100))
def test_both_alphabets_of_base64_are_read(data: bytes) -> None:
    assert decode_base64(encode_base64(data), "it") == data
    assert decode_base64(base64.urlsafe_b64encode(data).decode(), "it") == data
    assert encode_base64(data) == base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "text",
    ["a", "aa", "aa=", "aa==a", "aGk=\n", " aGk=", "aGl=", "a+-=", "====", "aGk==", "äää=", "a=aa", None],
)
def test_what_is_not_strictly_base64_is_refused(text: object) -> None:
    with pytest.raises(MalformedError, match="it is not base64"):
        decode_base64(text, "it")
