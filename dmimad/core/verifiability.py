"""CloudEvents' `dssematerial`: events that a subscriber can verify.

Source: cloudevents/spec, cloudevents/extensions/verifiability.md ("Verifiable CloudEvents with DSSE") as
merged in 2026: "Attributes", "Signing Protocol", "Verification Protocol", test vectors 3 to 8.  Drafts before
that had another payload under the same payload type; they are not read.

That text leaves open what the bytes of `data` are in a JSON event that has been parsed.  Here they are its
canonical form (RFC 8785), and `sign_event` returns the event with its data in that order, so that the
bytes in the message, those of `JSON.stringify` and those of any RFC 8785 library are the same.  See
docs/signing.md.

Which keys are trusted is the caller's.  Replays are for the subscriber to drop, by source and id.
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dmimad.core.dsse import Envelope, Verify, decode_base64, encode_base64, json_object
from dmimad.core.errors import MalformedError

ATTRIBUTE = "dssematerial"
PAYLOAD_TYPE = "https://cloudevents.io/verifiability/dsse/v0.1"
#: The attribute as it is in the event: base64 of an envelope.
MAX_MATERIAL_CHARS = 64 * 1024
#: Extension attributes that one signature may speak of.
MAX_EXTENSIONS = 100
#: Of integers above only some are the same number to every JSON parser (RFC 8785, 3.2.2.3).
MAX_INTEGER = 2**53 - 1
_LARGEST = 10**21

#: In the order they are digested, "Signing Protocol" 3.1 to 3.7; `time` and the data follow.
_TEXTS = ("id", "source", "specversion", "type", "datacontenttype", "dataschema", "subject")
_CORE = frozenset((*_TEXTS, "time"))
_NOT_EXTENSIONS = _CORE | {"data", "data_base64", ATTRIBUTE}
_NAME = re.compile(r"[a-z0-9]{1,64}")
_JSON_TYPE = re.compile(r"[^/]+/(?:[^;]+\+)?json\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.\d{1,9})?(?:[Zz]|([+-]\d\d:\d\d))", re.ASCII)


class Status(enum.StrEnum):
    """What is known of an event's origin."""

    UNSIGNED = "unsigned"
    VALID = "valid"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of verifying an event.

    Attributes:
        keyid: the trusted key that signed it, "" if none did.
        reason: why it is not valid, one line; "" if it is.
        event: if it is valid, what was signed of it, and nothing else: extension attributes that were not
            signed are missing, and `time` has whole seconds, for more of it is not signed.
    """

    status: Status
    keyid: str = ""
    reason: str = ""
    event: Mapping[str, object] = field(default_factory=dict)


def sign_event(event: Mapping[str, object], keyid: str, sign: Callable[[bytes], bytes]) -> dict[str, object]:
    """The event with `dssematerial`: all of its attributes and its data signed.

    ``sign`` makes a signature over the bytes it is given.  Raises MalformedError if the event has what
    cannot be signed: a number that JSON cannot tell, an attribute that is no text, number or bool.
    """
    signed = {name: value for name, value in event.items() if name != ATTRIBUTE}
    if "data" in signed and not isinstance(signed["data"], str):
        signed["data"] = json.loads(canonical(signed["data"]))
    names = sorted(name for name in signed if name not in _NOT_EXTENSIONS)
    material: dict[str, object] = {"core": encode_base64(_core_digest(signed))}
    if names:
        _check_names(names)
        material["ext"] = encode_base64(_extension_digest(signed, names))
        material["signedextattrs"] = names
    payload = json.dumps(material, separators=(",", ":")).encode("ascii")
    envelope = Envelope(payload, PAYLOAD_TYPE).signed_by(keyid, sign)
    signed[ATTRIBUTE] = encode_base64(envelope.to_json())
    return signed


def verify_event(event: Mapping[str, object], verify: Verify) -> Verification:
    """Whether a trusted key signed the event as it is; never raises, whatever the event is.

    ``verify`` tells for (key id, signed bytes, signature) whether that key is trusted and made it.
    """
    material = event.get(ATTRIBUTE)
    if material is None or material == "":
        return Verification(Status.UNSIGNED, reason="the event is not signed")
    try:
        return _verify(event, material, verify)
    except MalformedError as error:
        return Verification(Status.INVALID, reason=error.reason)
    except RecursionError:
        return Verification(Status.INVALID, reason="the event's data is nested too deeply")


def _verify(event: Mapping[str, object], material: object, verify: Verify) -> Verification:
    """ "Verification Protocol", by the numbers of its steps."""
    if not isinstance(material, str) or len(material) > MAX_MATERIAL_CHARS:  # 3
        raise MalformedError(f"{ATTRIBUTE} is not a short text")
    envelope = Envelope.from_json(decode_base64(material, ATTRIBUTE))  # 3, 4
    if envelope.payload_type != PAYLOAD_TYPE:  # 5
        raise MalformedError(f"{ATTRIBUTE} has an unknown payload type")
    core, extensions, names = _read_payload(envelope.payload)  # 6
    signers = envelope.signers(verify)  # 7
    if not signers:
        return Verification(Status.INVALID, reason="no trusted key has signed the event")
    if _core_digest(event) != core:  # 8
        return Verification(Status.INVALID, signers[0], "the event is not the one that was signed")
    if names and _extension_digest(event, names) != extensions:  # 9
        reason = "the event's extension attributes are not those that were signed"
        return Verification(Status.INVALID, signers[0], reason)
    kept = (_CORE | {"data", "data_base64", *names}) & event.keys()
    verified = {name: event[name] for name in event if name in kept}
    if "time" in verified:
        verified["time"] = _utc_seconds(verified["time"])
    return Verification(Status.VALID, signers[0], event=verified)


def _read_payload(payload: bytes) -> tuple[bytes, bytes, tuple[str, ...]]:
    """Step 6: core digest, digest of the extension attributes, their names."""
    document = json_object(payload, "the verification material", MAX_MATERIAL_CHARS)
    core = _digest(document.get("core"))
    if ("ext" in document) != ("signedextattrs" in document):
        raise MalformedError("the verification material has only one of ext and signedextattrs")
    if "ext" not in document:
        return core, b"", ()
    names = document["signedextattrs"]
    if not isinstance(names, list):
        raise MalformedError("signedextattrs is not a list")
    return core, _digest(document["ext"]), _check_names(names)


def _digest(value: object) -> bytes:
    digest = decode_base64(value, "a digest of the verification material")
    if len(digest) != hashlib.sha256().digest_size:
        raise MalformedError("a digest of the verification material has another length")
    return digest


def _check_names(names: Iterable[object]) -> tuple[str, ...]:
    """The constraints of `signedextattrs`: extension attributes, each once."""
    checked: dict[str, None] = {}
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise MalformedError("a signed extension attribute has no proper name")
        if name in checked or name in _NOT_EXTENSIONS:
            raise MalformedError(f"{name} cannot be a signed extension attribute, or not twice")
        checked[name] = None
    if not 0 < len(checked) <= MAX_EXTENSIONS:
        raise MalformedError(f"{len(checked)} signed extension attributes, not 1 to {MAX_EXTENSIONS}")
    return tuple(checked)


# -- digests ------------------------------------------------------------------------------


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _core_digest(event: Mapping[str, object]) -> bytes:
    """ "Signing Protocol", steps 3 and 4; what is not set counts as empty."""
    parts = [_utf8(_text(event, name)) for name in _TEXTS]
    parts.append(_utf8(_utc_seconds(event["time"])) if "time" in event else b"")
    parts.append(_data_bytes(event))
    return _sha256(b"".join(map(_sha256, parts)))


def _extension_digest(event: Mapping[str, object], names: Iterable[str]) -> bytes:
    """ "Signing Protocol", step 5."""
    return _sha256(b"".join(_sha256(_utf8(_canonical_string(event.get(name)))) for name in names))


def _text(event: Mapping[str, object], name: str) -> str:
    value = event.get(name, "")
    if not isinstance(value, str):
        raise MalformedError(f"the event's {name} is not a text")
    return value


def _utf8(text: str) -> bytes:
    """As `cloudevent.encode` writes it: half a surrogate pair, which has no UTF-8, as its escape."""
    return text.encode("utf-8", "backslashreplace")


def _canonical_string(value: object) -> str:
    """The types of CloudEvents that JSON can tell from another; the others are texts in it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) <= MAX_INTEGER:
        return str(value)
    if isinstance(value, str):
        return value
    raise MalformedError("a signed extension attribute is of a type that cannot be")


def _utc_seconds(time: object) -> str:
    """RFC 3339 -> the same in UTC with whole seconds, later ones cut off."""
    found = _TIME.fullmatch(time) if isinstance(time, str) else None
    if found is not None:
        try:
            moment = datetime.fromisoformat(f"{found[1]}T{found[2]}{found[3] or '+00:00'}")
            return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ").zfill(20)
        except (ValueError, OverflowError):
            pass  # there is no such day or hour
    raise MalformedError("the event's time is not one of RFC 3339")


def _data_bytes(event: Mapping[str, object]) -> bytes:
    """`data` as bytes, by CloudEvents' JSON format 3.1: binary, JSON, or a text that is no JSON."""
    if "data_base64" in event:
        if "data" in event:
            raise MalformedError("the event has data twice")
        return decode_base64(event["data_base64"], "the event's data_base64")
    if "data" not in event:
        return b""
    data, kind = event["data"], _text(event, "datacontenttype") or "application/json"
    if isinstance(data, str) and not _JSON_TYPE.fullmatch(kind):
        return _utf8(data)
    return _utf8(canonical(data))


# -- canonical JSON -----------------------------------------------------------------------


def canonical(value: object) -> str:
    """A JSON value as RFC 8785 writes it.

    Raises:
        MalformedError: a number or a type that it does not know.
    """
    if value is None or isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        members = sorted(value.items(), key=_utf16)
        return "{" + ",".join(f"{canonical(name)}:{canonical(member)}" for name, member in members) + "}"
    raise MalformedError("the event's data has what is no JSON")


def _utf16(member: tuple[str, object]) -> bytes:
    """RFC 8785, 3.2.3: members are ordered by the UTF-16 code units of their names."""
    return member[0].encode("utf-16-be", "surrogatepass")


def _number(value: float) -> str:
    """As ECMAScript's Number::toString: Python finds the same digits, and puts the point elsewhere."""
    if isinstance(value, int):
        if abs(value) <= MAX_INTEGER:
            return str(value)
        # The others only if they are what is written for a number of ECMAScript's.
        if abs(value) < _LARGEST and _number(float(value)) == str(value):
            return str(value)
        raise MalformedError("the event's data has a number that JSON cannot tell")
    if not abs(value) < float("inf"):  # written so that nan, which compares false, is refused
        raise MalformedError("the event's data has a number that JSON cannot tell")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    # 0.<digits> times ten to the power of `point` is the number.
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    return sign + _with_point(digits, point)


def _with_point(digits: str, point: int) -> str:
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    exponent = f"e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return f"{digits[0]}.{digits[1:]}{exponent}" if count > 1 else digits + exponent
