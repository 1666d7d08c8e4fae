"""What the daemon knows at one instant, as numbers and names: the input of metrics and status pages.

A snapshot is a value: nobody changes it, nor what it refers to, once it is given away.

What this module does not do: collect anything, or say how the numbers are called outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DeviceSeries:
    """One mapped device.

    Names are text (bytes that are not UTF-8 as `\\xNN`), hashes `sha256:<hex>`, provenance the witnesses
    that say so ("measured", "observed" or "both"), fingerprints ``config:<hex>``; None for an empty slot,
    and of fingerprints where nobody has told enough.  ``maintenance``: changes of it are expected.
    """

    device: str
    uuid: str
    active_hash: str | None
    inactive_hash: str | None
    drift_active: bool
    drift_inactive: bool
    active_provenance: str | None = None
    inactive_provenance: str | None = None
    active_fingerprint: str | None = None
    inactive_fingerprint: str | None = None
    maintenance: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The daemon at one instant.

    `findings` counts by (code, severity) since the start; `firing` has all three severities, always.
    `position` is the number of records of the present list that are processed, `lag` how many are not yet
    (None: the source does not say how many there are); `pcr_verified` is None without a TPM; `last_read` is
    in Unix seconds, None before the first read; `live_up` is None without a second witness; `mqtt_enabled` is
    False where nothing is to be published.
    `reload_success` is when everything that is configured was last accepted, None: never;
    `certificate_expiry` has our own certificates by use, `baseline_expiry` is when the first of the approved
    devices will no longer be (None: none is approved for a time), all in Unix seconds.
    """

    records: int
    dm_events: Mapping[str, int]
    devices: Sequence[DeviceSeries]
    findings: Mapping[tuple[str, str], int]
    firing: Mapping[str, int]
    position: int
    lag: int | None
    pcr_verified: bool | None
    last_read: float | None
    outbox_pending: int
    outbox_dead: int
    mqtt_connected: bool
    reload_ok: bool
    source_up: bool
    live_up: bool | None = None
    observations: int = 0
    store_up: bool = True
    mqtt_rival: bool = False
    reload_success: float | None = None
    certificate_expiry: Mapping[str, float] = field(default_factory=dict)
    baseline_expiry: float | None = None
    mqtt_enabled: bool = True
