"""The ready policies: understood, kept by tables of real kernels, violated by what they are against."""

from __future__ import annotations

import functools
import re

import pytest

from dmimad.core.backing import no_names
from dmimad.core.baseline import Entry, parse_baseline
from dmimad.core.configuration import configuration_of_live
from dmimad.core.observation import LiveTarget
from dmimad.core.rules import differences
from tests.conftest import CORPUS
from tests.core import recorded
from tests.core.live import recorded_observation

POLICIES = CORPUS.parent.parent / "config" / "policies"


def policy(name: str) -> Entry:
    (entry,) = parse_baseline((POLICIES / f"{name}.toml").read_text("utf-8"), f"{name}.toml").entries
    return entry


def violations(name: str, *targets: LiveTarget) -> set[tuple[int | None, str, str]]:
    """Target, attribute and actual value."""
    found = differences(policy(name).rules, configuration_of_live(targets, no_names))
    return {(one.target, one.attribute, one.actual) for one in found}


def target(text: str) -> LiveTarget:
    kind = text.removeprefix("target_name=").partition(",")[0] if "=" in text else text
    return LiveTarget(0, 8, kind, text.encode() if "=" in text else b"")


@functools.cache
def recorded_tables(name: str) -> dict[tuple[str, str], tuple[LiveTarget, ...]]:
    """Active tables of a corpus by name and uuid, the last of each."""
    found = {}
    for action in recorded.actions(name):
        for device in recorded_observation(action, b"").devices:
            if device.active is not None and device.active.targets:
                found[device.name.decode("latin-1"), device.uuid.decode("latin-1")] = device.active.targets
    return found


@pytest.mark.parametrize("path", sorted(POLICIES.glob("*.toml")), ids=lambda path: path.name)
def test_every_policy_is_understood_and_says_what_it_is_for(path: object) -> None:
    name = str(path).rpartition("/")[2].removesuffix(".toml")
    assert policy(name).description
    assert policy(name).rules
    assert not policy(name).is_exact


# -- dm-verity -----------------------------------------------------------------------------

VERITY = (
    "target_name=verity,target_version=1.9.0,hash_failed=V,verity_version=1,data_device_name=8:1,"
    "hash_device_name=8:2,verity_algorithm=sha256,root_digest=8343,salt=" + "ab" * 32 + ","
    "ignore_zero_blocks=n,check_at_most_once=n,verity_mode=restart_on_corruption;"
)


def test_a_strict_verity_table_passes() -> None:
    assert violations("dm-verity-strict", target(VERITY)) == set()
    assert violations("dm-verity-strict", target(VERITY.replace("restart_on", "panic_on"))) == set()
    assert violations("dm-verity-strict", target(VERITY.replace("=V", "=C"))) == set()  # health, not policy


@pytest.mark.parametrize(
    ("old", "new", "attribute", "actual"),
    [
        ("check_at_most_once=n", "check_at_most_once=y", "check_at_most_once", "y"),
        (",verity_mode=restart_on_corruption", "", "verity_mode", "none"),
        ("restart_on_corruption", "ignore_corruption", "verity_mode", "ignore_corruption"),
        ("verity_version=1", "verity_version=0", "verity_version", "0"),
        ("=sha256", "=sha1", "verity_algorithm", "sha1"),
        ("salt=" + "ab" * 32, "salt=-", "salt", "-"),
    ],
)
def test_a_lax_verity_table_does_not(old: str, new: str, attribute: str, actual: str) -> None:
    assert old in VERITY
    assert violations("dm-verity-strict", target(VERITY.replace(old, new))) == {(0, attribute, actual)}


def test_what_takes_the_place_of_verity_is_found() -> None:
    for other in ("target_name=linear,device_name=8:1,start=0;", "zero"):
        kind = target(other).type
        assert violations("dm-verity-strict", target(other)) == {(0, "type", kind)}
        assert violations("dm-verity-strict", target(VERITY), target(other)) == {(1, "type", kind)}
    swapped = [targets for (name, _), targets in recorded_tables("lvm-7.2").items() if name == "image-ro"]
    assert any(violations("dm-verity-strict", *targets) == {(0, "type", "linear")} for targets in swapped)


def test_of_the_recorded_verity_tables_those_are_told_that_are_lax() -> None:
    found = []
    for name in recorded.LISTS:
        for targets in recorded_tables(name).values():
            if targets[0].type == "verity":
                once = re.search(rb"check_at_most_once=(.)", targets[0].text)
                told = {attribute for _, attribute, _ in violations("dm-verity-strict", *targets)}
                assert ("check_at_most_once" in told) is (once is not None and once[1] == b"y")
                found.append(frozenset(told))
    assert found


# -- LUKS ----------------------------------------------------------------------------------

LUKS = (
    "target_name=crypt,target_version=1.24.0,allow_discards=n,same_cpu_crypt=n,iv_large_sectors=y,"
    "cipher_string=aes-xts-plain64,key_size=64,key_parts=1,key_extra_size=0,key_mac_size=0,sector_size=4096;"
)


def test_luks_volumes_of_real_kernels_pass() -> None:
    entry, passed = policy("luks"), 0
    for name in ("lvm-6.1", "lvm-7.2"):
        for (device, uuid), targets in recorded_tables(name).items():
            if entry.matches(device, uuid):
                assert violations("luks", *targets) <= {(0, "allow_discards", "y")}
                passed += violations("luks", *targets) == set()
    assert passed >= 1 or violations("luks", target(LUKS)) == set()
    authenticated = LUKS.replace("aes-xts-plain64", "capi:authenc(hmac(sha256),xts(aes))-random")
    assert violations("luks", target(authenticated.replace("=64", "=96"))) == set()


@pytest.mark.parametrize(
    ("old", "new", "attribute", "actual"),
    [
        ("allow_discards=n", "allow_discards=y", "allow_discards", "y"),
        ("key_size=64", "key_size=32", "key_size", "32"),
        ("aes-xts-plain64", "aes-cbc-essiv:sha256", "cipher_string", "aes-cbc-essiv:sha256"),
        ("aes-xts-plain64", "cipher_null-ecb", "cipher_string", "cipher_null-ecb"),
    ],
)
def test_a_weak_volume_does_not(old: str, new: str, attribute: str, actual: str) -> None:
    assert violations("luks", target(LUKS.replace(old, new))) == {(0, attribute, actual)}


def test_a_volume_that_is_not_encrypted_is_found() -> None:
    assert violations("luks", target("target_name=linear,start=0;")) == {(0, "type", "linear")}
    assert not policy("luks").matches("x", "CRYPT-PLAIN-x")


# -- LVM -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lvm-6.1", "lvm-7.2"])
def test_everything_that_lvm_made_passes(name: str) -> None:
    entry = policy("lvm")
    volumes = [targets for names, targets in recorded_tables(name).items() if entry.matches(*names)]
    assert len(volumes) > 3
    assert [targets for targets in volumes if violations("lvm", *targets)] == []


@pytest.mark.parametrize("kind", ["flakey", "delay", "zero", "dust"])
def test_what_lvm_does_not_make_is_found(kind: str) -> None:
    assert violations("lvm", target("target_name=linear,start=0;"), target(kind)) >= {(1, "type", kind)}
    assert violations("lvm", target(LUKS)) == {(0, "type", "crypt")}
