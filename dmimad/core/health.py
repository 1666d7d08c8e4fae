"""Attributes of targets that change by themselves: health, not configuration.

Source: the ``STATUSTYPE_IMA`` branches of dm-verity, dm-raid1, dm-raid, dm-stripe, dm-mpath, dm-snap and
dm-cache, Linux 5.15 to 7.2.  These targets put values that move after the load (a failed disk, a resync, a
discard setting they turn on at resume) among what they measure, so the text of a live table may differ from
its own load's though nobody touched it.

`stable_digest` is what stays of a table when they are left out; `degraded` names those that say that
something is broken.  Nothing here knows devices or slots.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from dmimad.core.event import Metadata
from dmimad.core.table import Target, parse_targets

_NUMBER = r"[0-9]+(?:_[0-9]+)?"
#: Target type -> attributes that move by themselves.
VOLATILE: dict[str, re.Pattern[str]] = {
    "verity": re.compile(r"hash_failed"),
    "mirror": re.compile(rf"mirror_device_{_NUMBER}_status|log_type_status"),
    "raid": re.compile(rf"raid_state|raid_device_{_NUMBER}_status"),
    "striped": re.compile(rf"stripe_{_NUMBER}_status"),
    "multipath": re.compile(rf"(?:pg_state|is_active|fail_count|path_selector_status)_{_NUMBER}"),
    "snapshot": re.compile(r"snap_valid|snap_merge_failed|snapshot_overflowed"),
    "snapshot-merge": re.compile(r"snap_valid|snap_merge_failed|snapshot_overflowed"),
    "cache": re.compile(r"metadata_mode|no_discard_passdown"),
}
#: A target that has any, in the text of a load: most tables have none and need no further look.
_ANY = re.compile(b",target_name=(?:%s)," % "|".join(VOLATILE).encode())
#: Attribute (without its number) -> values that mean that nothing is wrong.
_HEALTHY: dict[str, frozenset[str]] = {
    "hash_failed": frozenset({"V"}),
    "mirror_device_status": frozenset({"A"}),
    "raid_device_status": frozenset({"A", "a", "-"}),
    "stripe_status": frozenset({"A"}),
    "pg_state": frozenset({"A", "E"}),
    "is_active": frozenset({"A"}),
    "snap_valid": frozenset({"y"}),
    "snap_merge_failed": frozenset({"n"}),
    "snapshot_overflowed": frozenset({"n"}),
    "metadata_mode": frozenset({"rw"}),
}


def is_volatile(target_type: str | None, key: str) -> bool:
    """Whether an attribute of a target moves by itself."""
    pattern = VOLATILE.get(target_type or "")
    return pattern is not None and pattern.fullmatch(key) is not None


def stable_digest(metadata: Metadata, texts: tuple[bytes, ...]) -> bytes | None:
    """SHA-256 over a load without what moves by itself; None if it has nothing of the kind.

    Two loads have the same one if they differ in nothing else: same names, numbers, targets and attributes.
    """
    if not any(_ANY.search(text) for text in texts):
        return None
    hashed = hashlib.sha256(repr(tuple(metadata)).encode())
    for target in parse_targets(texts):
        kept = [pair for pair in target.attributes if not is_volatile(target.type, pair[0])]
        place = (target.index, target.begin_sectors, target.length_sectors)
        hashed.update(repr((place, kept)).encode("utf-8", "backslashreplace"))
    return hashed.digest()


def degraded(targets: Iterable[Target]) -> tuple[str, ...]:
    """What says that something is broken, as ``target 0: key=value``."""
    return tuple(
        f"target {target.index}: {key}={value}"
        for target in targets
        for key, value in target.attributes
        if is_volatile(target.type, key) and not _is_healthy(key, value)
    )


def _is_healthy(key: str, value: str) -> bool:
    name = re.sub(r"_[0-9]+", "", key)
    healthy = _HEALTHY.get(name)
    return healthy is None or value in healthy


def moved(before: Iterable[Target], now: Iterable[Target]) -> tuple[str, ...]:
    """Attributes that have another value than they were measured with, as ``target 0: key=old -> new``."""
    measured = {(target.index, key): value for target in before for key, value in target.attributes}
    return tuple(
        f"target {target.index}: {key}={measured[target.index, key]} -> {value}"
        for target in now
        for key, value in target.attributes
        if is_volatile(target.type, key) and measured.get((target.index, key), value) != value
    )
