"""Alerts that are signed, over a real broker, verified by a DSSE implementation that is not ours."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from dmimad.adapters.keys import PublicKeys, SigningKey, write_pair
from dmimad.core.verifiability import Status, verify_event
from tests.broker import Broker, subscribed_to
from tests.service.daemon_process import prepared, running
from tests.service.host import Host, entry
from tests.service.lists import ascii_records
from tests.service.witness import Alert, arrived

FINE = (entry("linear1"),)
MISSING = (*FINE, entry("swap", required=True))


@pytest.fixture
def records(corpus: Path) -> list[bytes]:
    return ascii_records(corpus / "systematic-6.1")


@pytest.fixture
def signing(host: Host, records: list[bytes]) -> Host:
    """A host whose alerts are signed, and something to tell: `swap` is missing."""
    write_pair(SigningKey.generate(), host.directory / "key")
    host.configure(alerts={"signing_key_file": str(host.directory / "key")})
    host.approve(*MISSING)
    host.append(b"".join(records[:4]))
    return host


def verified(payload: bytes, public: Path) -> bool:
    """With nothing of ours: the envelope by another library, the digests as docs/signing.md has them."""
    event: dict[str, Any] = json.loads(payload)
    envelope = Envelope.from_dict(json.loads(base64.b64decode(event["dssematerial"])))
    (keyid,) = envelope.signatures
    key = load_pem_public_key(public.read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    envelope.verify([SSlibKey.from_crypto(key, keyid=keyid)], 1)
    material = json.loads(envelope.payload)
    data = json.dumps(event["data"], sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    assert data in payload
    names = ("id", "source", "specversion", "type", "datacontenttype", "dataschema", "subject")
    core = [event.get(name, "").encode() for name in names] + [event["time"][:19].encode() + b"Z", data]
    extensions = [str(event[name]).encode() for name in material["signedextattrs"]]
    assert material["signedextattrs"] == ["sequence", "severitynumber", "severitytext"]
    return bool(material["core"] == digest(core) and material["ext"] == digest(extensions))


def digest(parts: list[bytes]) -> str:
    joined = b"".join(hashlib.sha256(part).digest() for part in parts)
    return base64.b64encode(hashlib.sha256(joined).digest()).decode()


def status(alert: Alert, public: Path) -> Status:
    return verify_event(alert.event, PublicKeys.load([public]).verify).status


async def test_every_alert_is_verified_by_another_implementation(broker: Broker, signing: Host) -> None:
    public = signing.directory / "key.pub"
    async with subscribed_to(broker) as subscriber, running(signing.settings):
        await arrived(subscriber, 1)
        signing.approve(*FINE)
        found = await arrived(subscriber, 2)
        assert [alert.event["data"]["status"] for alert in found] == ["firing", "resolved"]
        for alert in found:
            assert verified(alert.payload, public)
            assert status(alert, public) is Status.VALID


async def test_what_waits_in_the_outbox_is_signed_already(broker: Broker, signing: Host) -> None:
    """And is sent with the key it was made with."""
    signing.configure(mqtt={"enabled": False})
    async with running(signing.settings) as daemon:
        await daemon.wait_for_metric("dmimad_outbox_pending", 1)
        assert await daemon.terminate() == 0
    (stored,) = signing.outbox()
    assert verified(stored, signing.directory / "key.pub")
    signing.configure(mqtt={"enabled": True}, alerts={"signing_key_file": ""})
    async with subscribed_to(broker) as subscriber, running(signing.settings):
        assert (await arrived(subscriber, 1))[0].payload == stored


async def test_another_key_signs_what_comes_after_the_reload(broker: Broker, signing: Host) -> None:
    publics = [signing.directory / "key.pub", write_pair(SigningKey.generate(), signing.directory / "other")]
    async with subscribed_to(broker) as subscriber, running(signing.settings) as daemon:
        await arrived(subscriber, 1)
        signing.configure(alerts={"signing_key_file": str(signing.directory / "other")})
        await daemon.reload()
        signing.approve(*FINE)
        await arrived(subscriber, 2)
        signing.configure(alerts={"signing_key_file": ""})
        await daemon.reload()
        signing.approve(*MISSING)
        found = await arrived(subscriber, 3)
    statuses = [[status(alert, public).value for public in publics] for alert in found]
    assert statuses == [["valid", "invalid"], ["invalid", "valid"], ["unsigned", "unsigned"]]


async def test_a_key_that_others_can_read_is_refused(signing: Host) -> None:
    key = signing.directory / "key"
    key.chmod(0o644)
    async with prepared(signing.settings) as daemon:
        ended, log = await daemon.run_to_end()
    assert ended == 2
    problem = f"{key}: private key: everybody may access it (mode 0644); chmod o= {key}"
    assert f"{problem}; set by alerts.signing_key_file" in log
    assert "BEGIN" not in log


async def test_a_key_as_a_credential_of_the_service_manager(
    broker: Broker, signing: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an access list, which shows as rights of the group."""
    credentials, secret = signing.directory / "credentials", "/etc/dmimad/secrets/dmimad-test.key"
    credentials.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    signing.configure(alerts={"signing_key_file": secret})
    async with prepared(signing.settings) as daemon:
        ended, log = await daemon.run_to_end()
    assert ended == 2
    remedy = "put it there and restart dmimad, which gets the files in /etc/dmimad/secrets when it starts"
    assert f"{secret}: cannot be read: no such file or directory; {remedy}; set by" in log
    copy = credentials / "secrets_dmimad-test.key"
    copy.write_bytes((signing.directory / "key").read_bytes())
    copy.chmod(0o440)
    async with subscribed_to(broker) as subscriber, running(signing.settings):
        found = await arrived(subscriber, 1)
    assert verified(found[0].payload, signing.directory / "key.pub")


async def test_at_a_reload_it_is_refused_and_the_former_key_stays(broker: Broker, signing: Host) -> None:
    async with subscribed_to(broker) as subscriber, running(signing.settings) as daemon:
        await arrived(subscriber, 1)
        (signing.directory / "key").chmod(0o644)
        await daemon.reload()
        assert "everybody may access it" in (await daemon.wait_for_log("reload_refused"))["problem"]
        signing.approve(*FINE)
        assert verified((await arrived(subscriber, 2))[1].payload, signing.directory / "key.pub")
