"""Findings: what dmimad has to say, under codes that others rely on.

The codes and their meaning are a promise to dashboards and subscribers; add, never rename.
This module knows nothing of how a finding comes about.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Severity(enum.StrEnum):
    """How much a finding matters: look some time, look today, look now."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


#: Code -> (usual severity, meaning in one line).  `tracker` and `drift` may lower or raise it by context.
CODES: Mapping[str, tuple[Severity, str]] = {
    "drift.active": (Severity.CRITICAL, "the active table is not an approved one"),
    "drift.live": (Severity.CRITICAL, "a live table is not one that was measured"),
    "drift.inactive": (Severity.WARNING, "a table that is not approved is staged"),
    "device.unexpected": (Severity.WARNING, "no baseline entry matches this device"),
    "device.missing": (Severity.CRITICAL, "a required device does not exist or has no active table"),
    "device.removed": (Severity.WARNING, "an approved device was removed"),
    "device.renamed": (Severity.WARNING, "an approved device is called otherwise now"),
    "device.reloaded": (Severity.WARNING, "the table of a device that is not to be reloaded was replaced"),
    "policy.attribute": (Severity.CRITICAL, "an attribute of a table is not as the baseline demands"),
    "baseline.signature": (Severity.CRITICAL, "a baseline file is not signed as it must, or is an older one"),
    "measurement.absent": (Severity.CRITICAL, "a live device that should have been measured was not"),
    "table.untold": (Severity.WARNING, "a live table is too large to be looked at"),
    "activity.unrecorded": (Severity.INFO, "something was done to a device that left no new record"),
    "watch.interrupted": (Severity.INFO, "nobody watched for a while; what was undone meanwhile is unknown"),
    "table.unmeasured": (Severity.CRITICAL, "a table is in use whose load was never measured"),
    "table.hash_mismatch": (Severity.CRITICAL, "the kernel reports another hash than the measured load has"),
    "target.unmeasured": (
        Severity.WARNING,
        "the last target of a table was not measured (kernels before the rework)",
    ),
    "target.opaque": (Severity.INFO, "a target whose configuration the kernel does not measure"),
    "target.degraded": (Severity.WARNING, "a target says that something in it broke or changed state"),
    "record.malformed": (Severity.WARNING, "a record does not follow its format"),
    "record.event_digest": (Severity.CRITICAL, "a record's event digest is not that of its data"),
    "record.template_digest": (Severity.CRITICAL, "a record's template digest is not that of its data"),
    "list.trimmed": (Severity.CRITICAL, "records were deleted from the front of the list"),
    "list.gap": (Severity.CRITICAL, "records may have been lost unseen"),
    "list.restarted": (Severity.INFO, "the list began again: reboot or kexec"),
    "pcr.mismatch": (Severity.CRITICAL, "the list does not lead to the PCR's value"),
    "violations.increased": (Severity.INFO, "IMA saw a file change while it was measured"),
    "alerts.storm": (Severity.WARNING, "so many alerts at once that they are told as one"),
    "maintenance.active": (Severity.INFO, "changes of some devices are expected for a while"),
    "state.impossible": (Severity.CRITICAL, "a sequence of records that no kernel writes"),
    "state.unavailable": (Severity.WARNING, "the daemon's state cannot be stored"),
}


#: What is expected of an attribute that no rule speaks of.
NOT_NAMED = "not named"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it was approved; ``target`` is its index, None for the device as a whole."""

    target: int | None
    attribute: str
    expected: str
    actual: str

    def __str__(self) -> str:
        where = "" if self.target is None else f"target {self.target}: "
        if self.expected == NOT_NAMED:
            return f"{where}{self.attribute} is {self.actual}, and no rule names it"
        return f"{where}{self.attribute} is {self.actual}, not {self.expected}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found, with its evidence.

    ``device`` is the key of the mapped device concerned, "" if none.  ``record`` is the index of
    the record that shows it, None if no record does.  ``differences`` are between what is approved
    and what there is, as far as they are known.
    """

    code: str
    severity: Severity
    message: str
    device: str = ""
    record: int | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()


def make_finding(
    code: str,
    message: str,
    *,
    device: str = "",
    record: int | None = None,
    severity: Severity | None = None,
    differences: tuple[Difference, ...] = (),
    **data: str,
) -> Finding:
    """A finding under a known code, with the code's usual severity unless told."""
    return Finding(code, severity or CODES[code][0], message, device, record, data, differences)
