"""DSSE: signatures over typed bytes, and the JSON envelope they travel in.

Source: secure-systems-lab/dsse v1.0.2, protocol.md ("Signature Definition", "Protocol") and envelope.md
("Standard JSON envelope").

An envelope whose payload is in a file of its own is written without its payload, as envelope.md allows by
"empty fields may be omitted"; whoever reads it gives the payload.  It has the payload's SHA-256 beside, which
proves nothing, and tells a file that was changed from one that somebody else has signed.  Which keys are
trusted, and how a signature is checked, is the caller's: nothing here computes one.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from dmimad.core.errors import MalformedError

#: The JSON text of an envelope; ours have 500 bytes.
MAX_ENVELOPE_BYTES = 64 * 1024
MAX_SIGNATURES = 16
#: Of a key id and of a payload type, in characters.
MAX_NAME_CHARS = 256
#: Of one signature; Ed25519's have 64 bytes.
MAX_SIGNATURE_BYTES = 1024

#: (key id, signed bytes, signature) -> whether that key is trusted and made it.
Verify = Callable[[str, bytes, bytes], bool]

_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]*|[A-Za-z0-9_-]*)={0,2}")


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is really signed ("PAE"): type and payload, with lengths so that neither can be the other."""
    kind = payload_type.encode("utf-8", "backslashreplace")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature; ``keyid`` is a hint that narrows the choice of key and proves nothing."""

    keyid: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, what it is, and who signed it."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...] = ()

    def to_json(self, *, detached: bool = False) -> bytes:
        """The JSON text; ``detached``: without the payload."""
        document: dict[str, object] = {"payloadType": self.payload_type}
        if detached:
            document["payloadSha256"] = hashlib.sha256(self.payload).hexdigest()
        else:
            document["payload"] = encode_base64(self.payload)
        document["signatures"] = [
            {"keyid": signature.keyid, "sig": encode_base64(signature.sig)} for signature in self.signatures
        ]
        return json.dumps(document, separators=(",", ":")).encode("ascii")

    @classmethod
    def from_json(cls, data: bytes, *, payload: bytes | None = None) -> Envelope:
        """Read an envelope; ``payload``: it is a detached one, of these bytes.

        Unknown members are ignored, members that come twice are not.

        Raises:
            MalformedError: it is not an envelope, or larger than ours may be.
        """
        document = json_object(data, "a signature envelope", MAX_ENVELOPE_BYTES)
        kind = _name(document, "payloadType")
        if payload is None:
            payload = decode_base64(document.get("payload"), "the envelope's payload")
        elif "payload" in document:
            raise MalformedError("the signature envelope has a payload of its own")
        elif document.get("payloadSha256", digest := hashlib.sha256(payload).hexdigest()) != digest:
            raise MalformedError(
                "is a signature of other bytes: the file was changed since, or is another one"
            )
        return cls(payload, kind, _read_signatures(document.get("signatures")))

    def signed_by(self, keyid: str, sign: Callable[[bytes], bytes]) -> Envelope:
        """The same with this key's signature, in the place of one that it had made before."""
        others = tuple(signature for signature in self.signatures if signature.keyid != keyid)
        made = Signature(keyid, sign(pae(self.payload_type, self.payload)))
        return replace(self, signatures=(*others, made))

    def signers(self, verify: Verify) -> tuple[str, ...]:
        """Ids of the trusted keys that made a valid signature, each once; one is enough."""
        signed = pae(self.payload_type, self.payload)
        valid = (s.keyid for s in self.signatures if verify(s.keyid, signed, s.sig))
        return tuple(dict.fromkeys(valid))


def encode_base64(data: bytes) -> str:
    """Standard alphabet, padded."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode_base64(text: object, what: str) -> bytes:
    """Strictly: padded, nothing between, no spare bits; either alphabet, as DSSE's verifiers must.

    Raises:
        MalformedError: it is not a text, or not so encoded.
    """
    if isinstance(text, str) and _BASE64.fullmatch(text):
        standard = text.replace("-", "+").replace("_", "/")
        try:
            data = binascii.a2b_base64(standard, strict_mode=True)
        except binascii.Error:
            data = b""
        if encode_base64(data) == standard:
            return data
    raise MalformedError(f"{what} is not base64")


def json_object(data: bytes, what: str, limit: int) -> dict[str, object]:
    """A JSON object in UTF-8, no member of which comes twice; raises MalformedError."""
    if len(data) > limit:
        raise MalformedError(f"{what} is larger than {limit} bytes")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{what} is not JSON") from error
    if not isinstance(document, dict):
        raise MalformedError(f"{what} is not a JSON object")
    return document


def _once(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError("a member comes twice")
        members[name] = value
    return members


def _name(document: dict[str, object], key: str) -> str:
    value = document.get(key, "")
    if not isinstance(value, str) or len(value) > MAX_NAME_CHARS:
        raise MalformedError(f"the signature envelope's {key} is not a short text")
    return value


def _read_signatures(value: object) -> tuple[Signature, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise MalformedError("the signature envelope has no list of signatures")
    if not 0 < len(value) <= MAX_SIGNATURES:
        raise MalformedError(f"the signature envelope has {len(value)} signatures, not 1 to {MAX_SIGNATURES}")
    return tuple(_read_signature(entry) for entry in value)


def _read_signature(entry: dict[str, object]) -> Signature:
    sig = decode_base64(entry.get("sig"), "a signature")
    if not 0 < len(sig) <= MAX_SIGNATURE_BYTES:
        raise MalformedError("a signature is empty or too long")
    return Signature(_name(entry, "keyid"), sig)
