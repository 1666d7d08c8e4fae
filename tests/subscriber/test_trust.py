"""Whose key may speak for whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmimad.adapters.keys import SigningKey
from dmimad.core.errors import AdapterError
from dmimad.core.verifiability import Status
from dmimad.subscriber import HostKeys
from tests.subscriber.publishing import alert, write_public

WEB, DB, OLD, ALL = (SigningKey.generate() for _ in range(4))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """web-1 has a key and an older one in a folder of its own, db-1 has one, and there is one for all."""
    write_public(tmp_path / "keys/web-1.pub", WEB)
    write_public(tmp_path / "keys/web-1/2025.pem", OLD)
    write_public(tmp_path / "keys/db-1.pem", DB)
    write_public(tmp_path / "keys/any/all.pub", ALL)
    (tmp_path / "keys/README").write_text("not a key")
    return tmp_path / "keys"


def event(key: SigningKey | None, host: str = "web-1") -> dict[str, Any]:
    made: dict[str, Any] = json.loads(alert(1, host=host, key=key).payload)
    return made


@pytest.mark.parametrize("key", [WEB, OLD, ALL])
def test_keys_that_speak_for_a_host(directory: Path, key: SigningKey) -> None:
    found = HostKeys.load([directory]).verify("web-1", event(key))
    assert (found.status, found.keyid) == (Status.VALID, key.keyid)


def test_the_key_of_another_host_does_not(directory: Path) -> None:
    found = HostKeys.load([directory]).verify("web-1", event(DB))
    assert (found.status, found.keyid) == (Status.INVALID, DB.keyid)
    assert found.reason == "signed with the key of db-1"


def test_nor_does_one_that_nobody_trusts(directory: Path) -> None:
    found = HostKeys.load([directory]).verify("web-1", event(SigningKey.generate()))
    assert (found.status, found.keyid) == (Status.INVALID, "")


def test_a_key_that_two_hosts_share_speaks_for_both(tmp_path: Path) -> None:
    for host in ("web-1", "web-2"):
        write_public(tmp_path / f"{host}.pub", WEB)
    keys = HostKeys.load([tmp_path])
    assert {keys.verify(host, event(WEB)).status for host in ("web-1", "web-2")} == {Status.VALID}


def test_a_key_given_as_a_file_speaks_for_all(directory: Path) -> None:
    keys = HostKeys.load([directory / "web-1.pub"])
    assert keys.hosts == frozenset()
    assert keys.verify("db-1", event(WEB, "db-1")).status is Status.VALID
    assert keys.signs("whoever")


def test_hosts_with_a_key_sign_and_others_do_not(directory: Path, tmp_path: Path) -> None:
    assert HostKeys.load([directory]).hosts == {"web-1", "db-1"}
    own = HostKeys.load([write_public(tmp_path / "own/web-1.pub", WEB).parent])
    assert (own.signs("web-1"), own.signs("web-2")) == (True, False)
    assert own.verify("web-2", event(None, "web-2")).status is Status.UNSIGNED


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: None, "no public key in this directory"),
        (lambda path: (path / "web-1").mkdir(), "no public key in this directory"),
        (lambda path: (path / "web-1.pub").write_text("nonsense"), "is no public key"),
        (lambda path: (path / "web-1.pem").write_bytes(WEB.private_pem), "is a private key"),
    ],
)
def test_unusable_keys_are_refused(tmp_path: Path, make: Any, what: str) -> None:
    make(tmp_path)
    with pytest.raises(AdapterError, match=what):
        HostKeys.load([tmp_path])


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no such file"):
        HostKeys.load([tmp_path / "missing"])
