"""Checks of what is measured: the list, the policy, deduplication, dialect, trimming, TPM, live tables.

Source: ``security/integrity/ima/ima_policy.c`` (rules for critical data), ``ima_fs.c``, ``ima_queue.c``,
``drivers/md/dm-ima.c``, Linux 5.15 to 7.2.  Pure: facts in, lines out.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from dmimad.core.device import Dialect
from dmimad.doctor.checks import AS_ROOT, Answer, Check, Status, count, first
from dmimad.doctor.facts import Facts, KernelFacts, ListEvidence, ListFacts, TpmFacts, Trouble

#: The first kernel that measures device-mapper, and the first with the reworked dm-ima and with trimming.
_DM_IMA_KERNEL = (5, 15)
_REWORK_KERNEL = (7, 2)
MAX_NAMES_SHOWN = 5
MAX_NAMES_LISTED = 100
_MEASURE = (
    "boot with ima_policy=critical_data, or add to the IMA policy: "
    "measure func=CRITICAL_DATA label=device-mapper"
)
_DIALECTS = {
    Dialect.V1: "the last target of a table that overflows a record is not measured",
    Dialect.LEGACY: "the last target of a table that overflows a record is not measured",
    Dialect.ORDERED: "every target is measured",
}


# -- the list ------------------------------------------------------------------------------


def check_list(facts: Facts) -> Check:
    """Can the measurement list be read, and is it sound?"""
    found = facts.list
    evidence = found.evidence
    if evidence is None or found.trouble is not None:
        return _no_list(found, facts.kernel, root=facts.root)
    details = {
        "path": found.path,
        "format": evidence.form,
        "bank": evidence.bank,
        "records": evidence.records,
        "dm_records": evidence.dm_records,
        "violations": evidence.violations,
        "findings": dict(evidence.findings),
    }
    return first("ima.list", details, _list_answers(found, evidence))


def _list_answers(found: ListFacts, evidence: ListEvidence) -> Iterator[Answer]:
    analyse = f"analyse it: dmimad replay --summary {found.path}"
    text = f"{found.path}: {evidence.form}, {evidence.bank}, {count(evidence.records, 'record')}"
    if found.broken:
        yield Answer(Status.PROBLEM, f"{found.path}: {found.broken}", analyse)
    if evidence.findings:
        codes = ", ".join(f"{code} {number}" for code, number in evidence.findings)
        yield Answer(Status.PROBLEM, f"{text}, not what a kernel writes: {codes}", analyse)
    if not found.whole:
        yield Answer(Status.ADVICE, f"{text}, and more than there was time to read", analyse)
    if not evidence.records:
        remedy = "a list has at least one record: see where this one comes from"
        yield Answer(Status.PROBLEM, f"{found.path}: empty", remedy)
    yield Answer(Status.FINE, text)


def _no_list(found: ListFacts, kernel: KernelFacts, *, root: bool) -> Check:
    trouble = found.trouble or Trouble("cannot be read", found.path)
    text, remedy, status = f"{trouble.where}: {trouble.what}", "check source.path", Status.PROBLEM
    if trouble.denied and not root:
        status, remedy = Status.UNKNOWN, AS_ROOT
    elif trouble.denied:
        remedy = "the daemon needs CAP_DAC_READ_SEARCH, as the systemd unit dmimad.service gives it"
    elif trouble.code == errno.EBUSY:
        text = f"{trouble.where}: another process has it open for writing, which trims it"
        remedy = f"find out which: fuser -v {trouble.where}"
    elif trouble.code in (errno.ENOENT, errno.ENOTDIR) and not found.kernel:
        remedy = "start what mirrors a list there, or set source.path = auto for this host's own"
    elif trouble.code in (errno.ENOENT, errno.ENOTDIR) and kernel.option("CONFIG_IMA") == "n":
        text = f"{trouble.where}: no such file: the running kernel has no IMA ({kernel.options_file})"
        remedy = "boot one built with CONFIG_IMA=y, with ima_policy=critical_data"
    elif trouble.code in (errno.ENOENT, errno.ENOTDIR) and not found.securityfs_mounted:
        text = f"{trouble.where}: no such file: securityfs is not mounted, or the kernel uses none"
        remedy = "mount it: mount -t securityfs securityfs /sys/kernel/security"
    elif trouble.code in (errno.ENOENT, errno.ENOTDIR) and not found.ima:
        text = f"{trouble.where}: no such file: the running kernel has no IMA"
        remedy = "boot one built with CONFIG_IMA=y, with ima_policy=critical_data"
    details = {"path": trouble.where, "errno": errno.errorcode.get(trouble.code, "")}
    return Check("ima.list", status, text, remedy, details)


# -- the policy ----------------------------------------------------------------------------


def check_policy(facts: Facts) -> Check:
    """Are device-mapper events measured?"""
    kernel, found = facts.kernel, facts.list
    rule = None if kernel.policy is None or not found.kernel else policy_rule(kernel.policy)
    booted = found.kernel and measures_at_boot(kernel.command_line or "")
    details = {
        "dm_records": 0 if found.evidence is None else found.evidence.dm_records,
        "policy_readable": kernel.policy is not None,
        "policy_rule": rule,
        "booted_with_critical_data": booted,
    }
    return first("ima.policy", details, _policy_answers(facts, rule, booted=booted))


def _policy_answers(facts: Facts, rule: str | None, *, booted: bool) -> Iterator[Answer]:
    kernel, evidence = facts.kernel, facts.list.evidence
    records = 0 if evidence is None else evidence.dm_records
    if rule == "":
        text = "the IMA policy in force does not measure device-mapper"
        yield Answer(Status.PROBLEM, text + (", though it once was" if records else ""), _MEASURE)
    if records:
        yield Answer(Status.FINE, f"device-mapper is measured: {count(records, 'record')} of it in the list")
    if not facts.list.kernel:
        yield from _mirror_answers(facts)
    if kernel.version is not None and kernel.version < _DM_IMA_KERNEL:
        text = f"Linux {kernel.release} does not measure device-mapper"
        yield Answer(Status.PROBLEM, text, "use Linux 5.15 or later")
    if rule:
        yield Answer(Status.FINE, f"the IMA policy measures device-mapper ({rule}); nothing happened so far")
    if facts.live.unmeasured:
        yield Answer(Status.PROBLEM, "mapped devices are in use, and none of them was measured", _MEASURE)
    if booted:
        yield Answer(Status.FINE, "booted with ima_policy=critical_data; nothing happened so far")
    if evidence is not None and evidence.critical_data:
        yield Answer(Status.FINE, "critical data is measured since the boot; nothing happened so far")
    text = "nothing says that device-mapper is measured"
    if evidence is None or not facts.list.whole:
        yield Answer(Status.UNKNOWN, f"{text}; the list is not read", _list_first(facts))
    yield Answer(Status.ADVICE, f"{text}: no record of it, no ima_policy=critical_data", _MEASURE)


def _mirror_answers(facts: Facts) -> Iterator[Answer]:
    """A list in a file says nothing about this host's kernel, nor the kernel about it."""
    text = "no device-mapper record in the mirrored list"
    if not facts.list.whole:
        yield Answer(Status.UNKNOWN, f"{text}, as far as it is read", _list_first(facts))
    yield Answer(Status.ADVICE, text, "see that the mirrored host measures device-mapper")


def _list_first(facts: Facts) -> str:
    trouble = facts.list.trouble
    if trouble is not None and trouble.denied and not facts.root:
        return AS_ROOT
    return "put ima.list right first"


def policy_rule(rules: tuple[str, ...]) -> str:
    """The rule that measures device-mapper's events as root causes them; empty if there is none.

    Of the rules for critical data the first that applies counts, whether it says measure or dont_measure.
    """
    for rule in rules:
        action, *conditions = rule.split()
        values = dict(condition.partition("=")[::2] for condition in conditions)
        if action not in ("measure", "dont_measure") or values.get("func") != "CRITICAL_DATA":
            continue
        label = values.get("label")
        other_user = any(values.get(key, "0") != "0" for key in ("uid", "euid", "gid", "egid"))
        if other_user or (label is not None and "device-mapper" not in label.strip('"').split("|")):
            continue
        return rule if action == "measure" else ""
    return ""


def measures_at_boot(command_line: str) -> bool:
    """Whether ``ima_policy=`` asks for ``critical_data``; the word may be given several times."""
    for word in command_line.replace('"', "").split(" "):
        key, _, value = word.partition("=")
        if key == "ima_policy" and "critical_data" in value.split("|"):
            return True
    return False


# -- what the kernel is like ---------------------------------------------------------------


def check_deduplication(facts: Facts) -> Check:
    """Does the kernel drop records that are in the list already?"""
    kernel, evidence = facts.kernel, facts.list.evidence
    value = kernel.option("CONFIG_IMA_DISABLE_HTABLE") if facts.list.kernel else ""
    repeated = 0 if evidence is None else evidence.repeated
    details = {"config": value or None, "config_file": kernel.options_file or None, "repeated": repeated}
    if repeated or value == "y":
        text = "off: every event is in the list"
        reason = f"{count(repeated, 'repetition')} in it" if repeated else "CONFIG_IMA_DISABLE_HTABLE=y"
        return Check("ima.deduplication", Status.FINE, f"{text} ({reason})", details=details)
    if not value:
        looked = ", ".join(kernel.options_looked)
        text = "not known, so taken for on, as on distribution kernels"
        text += f": no kernel configuration ({looked})" if facts.list.kernel else ": another host's kernel"
        return Check("ima.deduplication", Status.UNKNOWN, text, details=details)
    text = f"on ({kernel.options_file}): what was measured before is not measured again"
    if facts.live.enabled and facts.live.trouble is None:
        return Check("ima.deduplication", Status.FINE, f"{text}; the live tables fill in", details=details)
    remedy = "make the live tables observable (live.witness): the list alone misses what happens again"
    return Check("ima.deduplication", Status.ADVICE, text, remedy, details)


def check_dialect(facts: Facts) -> Check:
    """Which form of device-mapper records does the kernel write, and what does that leave out?"""
    evidence, version = facts.list.evidence, facts.kernel.version
    if evidence is not None and evidence.dialect is not None:
        dialect = evidence.dialect
        how = "by its records" if evidence.proven or dialect is Dialect.V1 else "by its version"
        details: dict[str, object] = {
            "dialect": dialect.value,
            "proven": evidence.proven,
            "dm_version": evidence.dm_version,
            "unmeasured_targets": evidence.overflows,
        }
        text = f"{dialect}, {how}: {_DIALECTS[dialect]}"
        if not evidence.overflows:
            return Check("ima.dialect", Status.FINE, text, details=details)
        text += f"; so it was with {count(evidence.overflows, 'table')}"
        remedy = "give such tables fewer targets (dmimad replay names them), or use Linux 7.2 or later"
        return Check("ima.dialect", Status.ADVICE, text, remedy, details)
    if version is None or version < _DM_IMA_KERNEL or not facts.list.kernel:
        return Check(
            "ima.dialect", Status.UNKNOWN, "no device-mapper record to tell it by", details={"dialect": None}
        )
    expected = Dialect.ORDERED if version >= _REWORK_KERNEL else Dialect.LEGACY
    text = f"no record so far; Linux {facts.kernel.release} writes {expected}: {_DIALECTS[expected]}"
    return Check("ima.dialect", Status.FINE, text, details={"dialect": expected.value, "proven": False})


def check_trimming(facts: Facts) -> Check:
    """Can somebody delete records from the list here, and is that prevented?"""
    found, settings, daemon = facts.list, facts.settings, facts.daemon
    possible = trimming_possible(found, facts.kernel)
    details: dict[str, object] = {
        "possible": possible,
        "hold_open": settings.hold_open,
        "daemon_running": daemon.running,
        "daemon_holds_list": daemon.holds_list,
    }
    return first("ima.trimming", details, _trimming_answers(facts, possible=possible))


def _trimming_answers(facts: Facts, *, possible: bool | None) -> Iterator[Answer]:
    settings, daemon = facts.settings, facts.daemon
    if not facts.list.kernel:
        yield Answer(Status.FINE, "the list is a mirrored file, which dmimad cannot hold")
    if possible is None:
        yield Answer(Status.UNKNOWN, "not known: there is no list to look at (ima.list)")
    if not possible:
        yield Answer(Status.FINE, f"not possible on Linux {facts.kernel.release}")
    if not settings.hold_open and settings.trim_expected:
        yield Answer(Status.FINE, "possible, and planned: source.trim_expected = true")
    if not settings.hold_open:
        remedy = "set source.hold_open = true; or source.trim_expected = true if it is planned"
        yield Answer(Status.ADVICE, "possible, and not prevented: source.hold_open = false", remedy)
    if daemon.running is False:
        remedy = "start the daemon at boot: systemctl enable --now dmimad"
        yield Answer(Status.ADVICE, "possible, and no daemon runs that would hold the list open", remedy)
    if daemon.running is None or daemon.holds_list is None:
        remedy = "look at the daemon: systemctl status dmimad" if facts.root else AS_ROOT
        text = "possible on this kernel; whether the daemon holds the list open cannot be seen"
        yield Answer(Status.UNKNOWN, text, remedy)
    if not daemon.holds_list:
        text = f"possible: the daemon (pid {daemon.pid}) does not hold the list open"
        yield Answer(Status.ADVICE, text, "see ima.list, then restart it: systemctl restart dmimad")
    yield Answer(Status.FINE, f"prevented: the daemon (pid {daemon.pid}) holds the list open")


def trimming_possible(found: ListFacts, kernel: KernelFacts) -> bool | None:
    """By the mode of the list's file, which kernels that trim make writable; else by their version."""
    if found.mode is not None:
        return bool(found.mode & 0o222)
    return None if kernel.version is None or not found.ima else kernel.version >= _REWORK_KERNEL


# -- the TPM -------------------------------------------------------------------------------


def check_tpm(facts: Facts) -> Check:
    """Is there a TPM, and is its PCR 10 what the list leads to?"""
    tpm = facts.tpm
    banks = {
        bank.bank: {
            "pcr": bank.actual.hex(),
            "replayed": None if bank.replayed is None else bank.replayed.hex(),
            "agrees": bank.agrees,
        }
        for bank in tpm.banks
        if bank.actual
    }
    details = {"present": tpm.present, "record": tpm.compared_at, "unused": tpm.unused, "banks": banks}
    return first("tpm.pcr", details, _tpm_answers(facts))


def _tpm_answers(facts: Facts) -> Iterator[Answer]:
    tpm, found = facts.tpm, facts.list
    if not tpm.enabled:
        text = "not compared: tpm.enabled = false"
        yield Answer(Status.ADVICE, text, "set it to true if there is a TPM")
    if not found.kernel:
        yield Answer(Status.FINE, "not compared: the list is a mirrored file")
    if tpm.trouble is not None:
        text = f"{tpm.trouble.where}: {tpm.trouble.what}"
        if tpm.trouble.denied and not facts.root:
            yield Answer(Status.UNKNOWN, text, AS_ROOT)
        yield Answer(Status.PROBLEM, text, tpm.trouble.remedy or "see the kernel's log for the TPM")
    if not tpm.present:
        remedy = "enable one in the firmware: without it nothing proves that no record was taken out"
        yield Answer(Status.ADVICE, "no TPM", remedy)
    if found.evidence is None or not found.whole:
        text = "there is a TPM; not compared: the list is not read"
        yield Answer(Status.UNKNOWN, text, _list_first(facts))
    else:
        yield from _comparison_answers(tpm, found.evidence)


def _comparison_answers(tpm: TpmFacts, evidence: ListEvidence) -> Iterator[Answer]:
    compared = [bank for bank in tpm.banks if bank.replayed is not None]
    wrong = ", ".join(bank.bank for bank in compared if not bank.agrees)
    if not compared:
        text = f"not compared: no value can be computed for {', '.join(bank.bank for bank in tpm.banks)}"
        yield Answer(Status.UNKNOWN, text, "give the TPM a sha256 bank: tpm2_pcrallocate sha256:all")
    if not wrong:
        banks = ", ".join(bank.bank for bank in compared)
        yield Answer(Status.FINE, f"PCR 10 is what the list leads to ({banks})")
    if tpm.unused:
        text = "PCR 10 is all zeros: IMA does not use the TPM, whose driver came too late for it"
        yield Answer(Status.ADVICE, text, "build the TPM's driver into the kernel, not as a module")
    if not evidence.from_boot:
        text = "PCR 10 cannot be compared: the list was trimmed, it does not begin with the boot"
        remedy = "reboot for a whole list, and set source.hold_open = true to keep it whole"
        yield Answer(Status.ADVICE, text, remedy)
    text = f"PCR 10 is not what the list leads to ({wrong}): records were taken out or changed"
    remedy = "take the host for tampered with, unless it came up by kexec without its list; reboot it"
    yield Answer(Status.PROBLEM, text, remedy)


# -- the live tables -----------------------------------------------------------------------


def check_live(facts: Facts) -> Check:
    """Can the live tables be observed?"""
    live = facts.live
    details = {"enabled": live.enabled, "devices": live.devices, "dm_version": live.dm_version or None}
    return first("live.witness", details, _live_answers(facts))


def _live_answers(facts: Facts) -> Iterator[Answer]:
    live = facts.live
    if not live.enabled:
        remedy = "set it to true: what happens a second time is not in the list"
        yield Answer(Status.ADVICE, "not observed: live.enabled = false", remedy)
    if live.trouble is None:
        yield Answer(Status.FINE, f"live tables observed: {count(live.devices or 0, 'mapped device')}")
        return
    text, remedy = f"{live.trouble.where}: {live.trouble.what}", live.trouble.remedy
    if facts.kernel.device_mapper is False:
        remedy = "modprobe dm_mod; nothing is needed as long as the host has no mapped device"
        yield Answer(Status.ADVICE, f"device-mapper is not loaded ({text})", remedy)
    if not facts.root:
        yield Answer(Status.UNKNOWN, text, AS_ROOT)
    yield Answer(Status.PROBLEM, text, remedy or "see the observer's log, or set live.enabled = false")


def check_devices(facts: Facts) -> Check:
    """Was every mapped device that is in use ever measured?"""
    live = facts.live
    names = live.unmeasured
    devices = count(live.devices or 0, "mapped device")
    details: dict[str, object] = {
        "devices": live.devices,
        "unmeasured": None if names is None else list(names[:MAX_NAMES_LISTED]),
        "unmeasured_count": None if names is None else len(names),
    }
    if names is None:
        text = "not compared: it takes both the list and the live tables"
        remedy = "see ima.list and live.witness" if facts.root else AS_ROOT
        return Check("live.devices", Status.UNKNOWN, text, remedy if live.enabled else "", details)
    if not names:
        return Check("live.devices", Status.FINE, f"measured: each of {devices}", details=details)
    shown = ", ".join(names[:MAX_NAMES_SHOWN]) + (", …" if len(names) > MAX_NAMES_SHOWN else "")
    text = f"{len(names)} of {devices} never measured: {shown}"
    remedy = (
        "load the IMA policy before they are created (ima_policy=critical_data at boot), and see ima.policy"
    )
    return Check("live.devices", Status.ADVICE, text, remedy, details)
