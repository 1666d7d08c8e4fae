"""`dssematerial` against the specification's vectors, another DSSE, other canonical JSON, and forgers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.signer import SSlibKey

from dmimad.core.cloudevent import encode
from dmimad.core.dsse import Envelope
from dmimad.core.errors import MalformedError
from dmimad.core.verifiability import (
    ATTRIBUTE,
    MAX_MATERIAL_CHARS,
    PAYLOAD_TYPE,
    Status,
    canonical,
    sign_event,
    verify_event,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEYID = "ed25519:test"
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "0ce2588b",
    "source": "web-1",
    "type": "dmimad.alert.drift.active",
    "subject": "linear1",
    "time": "2026-11-22T14:37:14.203Z",
    "datacontenttype": "application/json",
    "sequence": "00000000000000000001",
    "severitytext": "CRITICAL",
    "severitynumber": 18,
    "data": {
        "code": "drift.active",
        "record": 6,
        "duration_seconds": 10.5,
        "zero": 0.0,
        "a": None,
        "é": [True],
    },
}


def trusted(keyid: str, data: bytes, signature: bytes) -> bool:
    if keyid != KEYID:
        return False
    try:
        KEY.public_key().verify(signature, data)
    except InvalidSignature:
        return False
    return True


def signed(event: dict[str, Any] = EVENT) -> dict[str, Any]:
    """As a subscriber gets it: published and parsed."""
    parsed: dict[str, Any] = json.loads(encode(sign_event(event, KEYID, KEY.sign)))
    return parsed


def sealed(material: object, payload_type: str = PAYLOAD_TYPE) -> str:
    """A well signed envelope of whatever is in it."""
    payload = material if isinstance(material, bytes) else json.dumps(material).encode()
    return base64.b64encode(Envelope(payload, payload_type).signed_by(KEYID, KEY.sign).to_json()).decode()


def material_of(event: dict[str, Any]) -> dict[str, Any]:
    envelope = json.loads(base64.b64decode(event[ATTRIBUTE]))
    parsed: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return parsed


# -- the specification's own vectors ------------------------------------------------------

VECTOR_KEY = EllipticCurvePublicNumbers(
    46950820868899156662930047687818585632848591499744589407958293238635476079160,
    5640078356564379163099075877009565129882514886557779369047442380624545832820,
    SECP256R1(),
).public_key()
BINARY = {
    "specversion": "1.0",
    "id": "1",
    "source": "example/uri",
    "type": "example.type.binary",
    "datacontenttype": "application/octet-stream",
    "data_base64": "8J+koQ==",
}
#: Case 5: the material and its signature.
BINARY_PAYLOAD = "eyJjb3JlIjoicUNTZWlaa1MraEg5V2lDbGZxNnBsZnFZTlZ5Mmt2eFdSZm9CckxFem9Eaz0ifQ=="
BINARY_SIGNATURE = "F2ip0xmgJX3ugHZC6tMrr7A2Eqai08raGrTwdyh/OGDIIrF7ByM2yITLKqNrF3dzZGR2o0Cs9fEBFdLxROUyEQ=="
#: Case 7: the digest of exta = "value1" and extb = "value2".
TWO_EXTENSIONS = "HB1pe431FoQZRsJbyLNMq0QaAvqPtmhdi8dHGShbJAU="


def vector_verifies(keyid: str, data: bytes, signature: bytes) -> bool:
    assert keyid == "testkey"
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    try:
        VECTOR_KEY.verify(encode_dss_signature(r, s), data, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def test_the_binary_vector_of_the_specification_verifies() -> None:
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": BINARY_PAYLOAD,
        "signatures": [{"keyid": "testkey", "sig": BINARY_SIGNATURE}],
    }
    material = base64.b64encode(json.dumps(envelope).encode()).decode()
    found = verify_event({**BINARY, ATTRIBUTE: material}, vector_verifies)
    assert (found.status, found.keyid, found.reason) == (Status.VALID, "testkey", "")
    assert found.event == BINARY
    assert verify_event({**BINARY, "id": "2", ATTRIBUTE: material}, vector_verifies).status is Status.INVALID


def test_the_extension_vector_of_the_specification_is_computed() -> None:
    found = material_of(signed({**BINARY, "extb": "value2", "exta": "value1"}))
    assert found["core"] == json.loads(base64.b64decode(BINARY_PAYLOAD))["core"]
    assert (found["ext"], found["signedextattrs"]) == (TWO_EXTENSIONS, ["exta", "extb"])


# -- our events ---------------------------------------------------------------------------


def independent_material(event: dict[str, Any], data: bytes) -> dict[str, Any]:
    """The material as docs/signing.md says it, in other words than the module's."""

    def digest(parts: list[bytes]) -> str:
        joined = b"".join(hashlib.sha256(part).digest() for part in parts)
        return base64.b64encode(hashlib.sha256(joined).digest()).decode()

    names = ("id", "source", "specversion", "type", "datacontenttype", "dataschema", "subject")
    time = event["time"][:19].encode() + b"Z"
    extensions = ["sequence", "severitynumber", "severitytext"]
    return {
        "core": digest([event.get(name, "").encode() for name in names] + [time, data]),
        "ext": digest([str(event[name]).encode() for name in extensions]),
        "signedextattrs": extensions,
    }


def test_an_alert_is_verified_by_another_implementation_from_the_bytes_published() -> None:
    published = encode(sign_event(EVENT, KEYID, KEY.sign))
    event = json.loads(published)
    other = OtherEnvelope.from_dict(json.loads(base64.b64decode(event[ATTRIBUTE])))
    key = SSlibKey.from_crypto(KEY.public_key(), keyid=KEYID)
    assert other.verify([key], 1) == {KEYID: key}
    assert other.payload_type == "https://cloudevents.io/verifiability/dsse/v0.1"
    raw = published[published.index(b'"data":') + 7 : published.rindex(b',"dssematerial"')]
    assert raw.startswith(b'{"a":null,"code":"drift.active","duration_seconds":10.5,')
    assert json.loads(other.payload) == independent_material(event, raw)


def test_a_signed_event_has_all_of_the_unsigned_one() -> None:
    event = signed()
    assert event.pop(ATTRIBUTE)
    assert event == EVENT
    assert sign_event(sign_event(EVENT, KEYID, KEY.sign), KEYID, KEY.sign)[ATTRIBUTE] == signed()[ATTRIBUTE]


def test_a_verified_event_is_what_was_signed_and_nothing_else() -> None:
    found = verify_event({**signed(), "added": "by somebody", "time": "2026-11-22T15:37:14.9+01:00"}, trusted)
    assert (found.status, found.keyid) == (Status.VALID, KEYID)
    assert found.event == {**EVENT, "time": "2026-11-22T14:37:14Z"}


def test_the_order_of_members_does_not_matter() -> None:
    event = dict(reversed(signed().items()))
    event["data"] = dict(reversed(event["data"].items()))
    assert verify_event(event, trusted).status is Status.VALID


def test_an_event_without_a_signature_is_unsigned() -> None:
    for event in (EVENT, {**EVENT, ATTRIBUTE: ""}, {}):
        found = verify_event(event, trusted)
        assert (found.status, found.reason, found.event) == (Status.UNSIGNED, "the event is not signed", {})


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"},
        {"source": "web-2"},
        {"type": "dmimad.alert.drift.inactive"},
        {"subject": "linear2"},
        {"dataschema": "x"},
        {"time": "2026-11-22T14:37:15Z"},
        {"time": "2026-11-22T14:37:14+01:00"},
        {"data": {**EVENT["data"], "record": 7}},
        {"data": None},
        {"sequence": "00000000000000000002"},
        {"severitytext": "WARNING"},
        {"severitynumber": 13},
        {"severitynumber": "18 "},
    ],
    ids=str,
)
def test_any_change_is_noticed(change: dict[str, Any]) -> None:
    found = verify_event({**signed(), **change}, trusted)
    assert found.status is Status.INVALID
    assert "not th" in found.reason
    assert found.event == {}


@pytest.mark.parametrize("gone", sorted(EVENT))
def test_anything_taken_away_is_noticed(gone: str) -> None:
    event = signed()
    del event[gone]
    assert verify_event(event, trusted).status is Status.INVALID


def test_a_key_that_is_not_trusted_is_no_signature() -> None:
    event = sign_event(EVENT, "ed25519:other", KEY.sign)
    assert verify_event(event, trusted).reason == "no trusted key has signed the event"
    other = Ed25519PrivateKey.generate()
    forged = verify_event(sign_event(EVENT, KEYID, other.sign), trusted)
    assert (forged.status, forged.keyid) == (Status.INVALID, "")


DIGEST = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("material", "reason"),
    [
        (7, "is not a short text"),
        ("A" * (MAX_MATERIAL_CHARS + 4), "is not a short text"),
        ("%", "dssematerial is not base64"),
        (base64.b64encode(b"{").decode(), "is not JSON"),
        (sealed({"core": DIGEST}, "https://cloudevents.io/verifiability/dsse/v0.2"), "unknown payload type"),
        (sealed(bytes(32)), "verification material is not JSON"),
        (sealed([]), "verification material is not a JSON object"),
        (sealed({}), "digest of the verification material is not base64"),
        (sealed({"core": "AAAA"}), "has another length"),
        (sealed({"core": DIGEST, "ext": DIGEST}), "only one of ext and signedextattrs"),
        (sealed({"core": DIGEST, "signedextattrs": ["a"]}), "only one of ext and signedextattrs"),
        (sealed({"core": DIGEST, "ext": "", "signedextattrs": ["a"]}), "has another length"),
        (sealed({"core": DIGEST, "ext": DIGEST, "signedextattrs": "a"}), "signedextattrs is not a list"),
        (sealed({"core": DIGEST, "ext": DIGEST, "signedextattrs": []}), "0 signed extension attributes"),
        (
            sealed({"core": DIGEST, "ext": DIGEST, "signedextattrs": [f"a{n}" for n in range(101)]}),
            "101 signed",
        ),
        (sealed({"core": DIGEST, "ext": DIGEST, "signedextattrs": ["exta", "exta"]}), "or not twice"),
        (sealed({"core": DIGEST, "ext": DIGEST, "signedextattrs": ["id"]}), "id cannot be"),
        (sealed({"core": DIGEST, "ext": DIGEST, "signedextattrs": [ATTRIBUTE]}), "dssematerial cannot be"),
        (sealed({"core": DIGEST, "ext": DIGEST, "signedextattrs": [1]}), "no proper name"),
        (sealed({"core": DIGEST, "ext": DIGEST, "signedextattrs": ["A b"]}), "no proper name"),
        (sealed({"core": DIGEST, "more": 1}), "is not the one that was signed"),
    ],
)
def test_wrong_material_is_refused(material: object, reason: str) -> None:
    found = verify_event({**EVENT, ATTRIBUTE: material}, trusted)
    assert found.status is Status.INVALID
    assert reason in found.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": 1}, "id is not a text"),
        ({"datacontenttype": None}, "datacontenttype is not a text"),
        ({"time": 0}, "time is not one of RFC 3339"),
        ({"time": "2026-13-01T00:00:00Z"}, "time is not one of RFC 3339"),
        ({"time": "0001-01-01T00:00:00+01:00"}, "time is not one of RFC 3339"),
        ({"time": "2026-11-22"}, "time is not one of RFC 3339"),
        ({"data": {"a": 2**53 + 1}}, "JSON cannot tell"),
        ({"data": {"a": 10**5000}}, "JSON cannot tell"),
        ({"data": float("nan")}, "JSON cannot tell"),
        ({"data": {1: 2}}, "what is no JSON"),
        ({"data_base64": "AAAA"}, "data twice"),
        ({"sequence": [1]}, "a type that cannot be"),
        ({"sequence": 1.5}, "a type that cannot be"),
        ({"sequence": 2**53}, "a type that cannot be"),
    ],
)
def test_hostile_events_are_invalid(change: dict[str, Any], reason: str) -> None:
    found = verify_event({**signed(), **change}, trusted)
    assert found.status is Status.INVALID
    assert reason in found.reason


def test_data_nested_without_end_is_invalid() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    found = verify_event({**signed(), "data": nested}, trusted)
    assert found.reason == "the event's data is nested too deeply"


def test_an_event_that_cannot_be_signed_is_refused() -> None:
    with pytest.raises(MalformedError, match="no proper name"):
        sign_event({**EVENT, "not-a-name": "x"}, KEYID, KEY.sign)


@pytest.mark.parametrize(
    "event",
    [
        {"id": "1"},
        {"id": "1", "data": "text"},
        {"id": "1", "data": "text", "datacontenttype": "text/plain"},
        {"id": "1", "data": None, "datacontenttype": "application/vnd.x+json; charset=utf-8"},
        {"id": "1", "data_base64": ""},
        {"id": "half \ud83d of a pair", "data": {"\udcff": "\udcff"}},
        {"id": "1", "yes": True, "no": False, "nothing": None, "time": "0999-01-01t00:00:00z"},
    ],
    ids=repr,
)
def test_other_events_are_signed_and_verified(event: dict[str, Any]) -> None:
    assert verify_event(signed(event), trusted).status is Status.VALID


def test_text_that_is_no_json_is_hashed_as_it_is() -> None:
    text = signed({"id": "1", "data": "text", "datacontenttype": "text/plain"})
    binary = signed({"id": "1", "data_base64": "dGV4dA==", "datacontenttype": "text/plain"})
    assert text[ATTRIBUTE] == binary[ATTRIBUTE]


# -- canonical JSON -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        # RFC 8785, appendix B, and section 3.2.
        (0.0, "0"),
        (-0.0, "0"),
        (5e-324, "5e-324"),
        (-5e-324, "-5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (9007199254740992.0, "9007199254740992"),
        (295147905179352830000.0, "295147905179352830000"),
        (9.999999999999997e22, "9.999999999999997e+22"),
        (1e23, "1e+23"),
        (1.0000000000000001e23, "1.0000000000000001e+23"),
        (999999999999999700000.0, "999999999999999700000"),
        (1e21, "1e+21"),
        (9.999999999999997e-7, "9.999999999999997e-7"),
        (0.000001, "0.000001"),
        (333333333.3333332, "333333333.3333332"),
        (-0.0000033333333333333333, "-0.0000033333333333333333"),
        (1424953923781206.2, "1424953923781206.2"),
        (1.0, "1"),
        (10.5, "10.5"),
        (100, "100"),
        (2**53 - 1, "9007199254740991"),
        ('€$\x0f\nA\'B"\\"/', '"€$\\u000f\\nA\'B\\"\\\\\\"/"'),
        (
            {"peach": 1, "péché": 2, "\U0001f600": 3, "\ufb33": 4},
            '{"peach":1,"péché":2,"\U0001f600":3,"\ufb33":4}',
        ),
        ([True, False, None, [], {}], "[true,false,null,[],{}]"),
    ],
)
def test_canonical_json(value: object, text: str) -> None:
    assert canonical(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_canonical_numbers_are_the_same_numbers(value: float) -> None:
    assert float(canonical(value)) == value


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_whatever_is_signed_is_verified_after_a_journey(data: object) -> None:
    event = signed({"id": "1", "data": data})
    again = json.loads(json.dumps(event, indent=3, sort_keys=True))
    assert verify_event(again, trusted).status is Status.VALID


def test_the_vector_of_the_documentation() -> None:
    text = (
        (Path(__file__).parents[2] / "docs" / "signing.md").read_text("utf-8").partition("### Test vector")[2]
    )
    blocks = [
        "".join(line.strip() for line in block.splitlines())
        for block in re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    ]
    event, data, payload, signature = blocks
    signed_event = sign_event(json.loads(event), KEYID, KEY.sign)
    envelope = json.loads(base64.b64decode(str(signed_event[ATTRIBUTE])))
    assert canonical(signed_event["data"]) == data
    assert base64.b64decode(envelope["payload"]).decode() == payload
    assert envelope["signatures"][0]["sig"] == signature
