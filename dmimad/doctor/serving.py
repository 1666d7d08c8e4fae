"""Checks of what the daemon needs around it: settings, files, broker, clock.

Source: the settings.  Pure: facts in, lines out.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from dmimad.doctor.checks import AS_ROOT, Answer, Check, Status, count, first
from dmimad.doctor.facts import EndpointFacts, Facts, StateFacts

#: No host that runs this has a right clock that is earlier.
EARLIEST_YEAR = 2024
#: Below the first the daemon soon cannot store anything, below the second it is time to think of it.
LEAST_FREE_BYTES = 4 << 20
ENOUGH_FREE_BYTES = 64 << 20
_OTHERS_WRITE = 0o002


def check_versions(facts: Facts) -> Check:
    """What runs here; information only."""
    evidence = facts.list.evidence
    device_mapper = facts.live.dm_version or (evidence.dm_version if evidence is not None else "")
    details = {
        "dmimad": facts.dmimad_version,
        "python": facts.python_version,
        "kernel": facts.kernel.release,
        "device_mapper": device_mapper or None,
    }
    text = f"dmimad {facts.dmimad_version}, Python {facts.python_version}, Linux {facts.kernel.release}"
    if device_mapper:
        text += f", device-mapper {device_mapper}"
    return Check("versions", Status.FINE, text, details=details)


def check_settings(facts: Facts) -> Check:
    """Are the settings in good hands?  That they are usable is sure, or nothing would be checked."""
    settings = facts.settings
    details = {
        "file": settings.file,
        "exists": settings.exists,
        "host": settings.host_id,
        "exposed": list(settings.exposed),
    }
    if settings.writable:
        text = f"{settings.file} can be written by everybody"
        return Check("settings", Status.PROBLEM, text, f"chmod o-w {settings.file}", details)
    if settings.exposed:
        text = f"secrets that everybody can read or write: {', '.join(settings.exposed)}"
        return Check("settings", Status.ADVICE, text, f"chmod o-rw {' '.join(settings.exposed)}", details)
    source = settings.file if settings.exists else "defaults, no settings file"
    return Check("settings", Status.FINE, f"{source}, host {settings.host_id}", details=details)


def check_clock(facts: Facts) -> Check:
    """Is the clock anywhere near the present?"""
    try:
        now = datetime.fromtimestamp(facts.unix_time, UTC)
    except (OverflowError, ValueError, OSError):  # beyond what a date can be
        return _wrong_clock(facts, f"{facts.unix_time:g} s after 1970")
    text = now.strftime("%Y-%m-%d %H:%M:%S UTC")
    if now.year < EARLIEST_YEAR:
        return _wrong_clock(facts, text)
    return Check("clock", Status.FINE, text, details={"unix_time": facts.unix_time})


def _wrong_clock(facts: Facts, text: str) -> Check:
    remedy = "set it (timedatectl set-ntp true): alerts would carry wrong times, and TLS would fail"
    details = {"unix_time": facts.unix_time}
    return Check("clock", Status.PROBLEM, f"the clock is wrong: {text}", remedy, details)


def check_broker(facts: Facts) -> Check:
    """Does the MQTT broker let us in?"""
    broker = facts.broker
    details = {
        "enabled": broker.enabled,
        "broker": broker.where,
        "protocol": broker.protocol,
        "tls": broker.tls,
    }
    if not broker.enabled:
        return Check("mqtt.broker", Status.FINE, "not used: mqtt.enabled = false", details=details)
    if broker.trouble is not None:
        trouble = broker.trouble
        text = f"{trouble.where}: {trouble.what}" if trouble.where else trouble.what
        if trouble.denied and not facts.root:
            return Check("mqtt.broker", Status.UNKNOWN, text, AS_ROOT, details)
        return Check("mqtt.broker", Status.PROBLEM, text, trouble.remedy, details)
    version = "5" if broker.protocol == 5 else "3.1.1"
    text = f"{broker.where} lets us in (MQTT {version}, {'TLS' if broker.tls else 'no TLS'})"
    if not broker.tls and not broker.loopback:
        text += ": passwords and alerts cross the network in the clear"
        remedy = "set mqtt.tls_ca_file, and mqtt.port to the broker's port for TLS"
        return Check("mqtt.broker", Status.ADVICE, text, remedy, details)
    return Check("mqtt.broker", Status.FINE, text, details=details)


def check_metrics(facts: Facts) -> Check:
    """Can Prometheus get the metrics?  Without their endpoint the daemon does not start."""
    return _check_endpoint("metrics", facts.metrics, facts, Status.PROBLEM)


def check_page(facts: Facts) -> Check:
    """Can people get the status page?  The daemon works without it."""
    return _check_endpoint("page", facts.page, facts, Status.ADVICE)


def _check_endpoint(name: str, endpoint: EndpointFacts, facts: Facts, not_served: Status) -> Check:
    details = {"enabled": endpoint.enabled, "endpoint": endpoint.where, "free": endpoint.free}
    return first(f"{name}.endpoint", details, _endpoint_answers(name, endpoint, facts, not_served))


def _endpoint_answers(
    name: str, endpoint: EndpointFacts, facts: Facts, not_served: Status
) -> Iterator[Answer]:
    where, trouble, running = endpoint.where, endpoint.trouble, facts.daemon.running
    if not endpoint.enabled:
        yield Answer(Status.FINE, f"not served: {name}.enabled = false")
    if trouble is not None:
        text = f"{trouble.where}: {trouble.what}" if trouble.where else trouble.what
        if trouble.denied and not facts.root:
            yield Answer(Status.UNKNOWN, text, AS_ROOT)
        yield Answer(not_served, text, trouble.remedy)
    if endpoint.free is False and running is None:
        yield Answer(Status.UNKNOWN, f"{where}: the daemon or another program listens there", AS_ROOT)
    if endpoint.free is False and not running:
        text = f"{where}: another program listens there"
        yield Answer(not_served, text, f"stop it (ss -ltnp shows which), or choose another {name}.port")
    if endpoint.free and running:
        text = f"{where}: nothing listens there, though the daemon runs"
        remedy = "dmimad status says why; settings of endpoints take a restart: systemctl restart dmimad"
        yield Answer(not_served, text, remedy)
    for caution in endpoint.cautions:
        text = caution.what if caution.where == name else f"{caution.where}: {caution.what}"
        yield Answer(Status.ADVICE, text, caution.remedy)
    now = "served" if endpoint.free is False else "free for the daemon"
    what = "any free port" if endpoint.free is None else now
    yield Answer(Status.FINE, f"{where}: {what}, {endpoint.how}")


def check_state(facts: Facts) -> Check:
    """Can the daemon keep its state, and nobody else change it?"""
    state = facts.state
    details = {
        "directory": state.directory,
        "exists": state.exists,
        "owner": state.owner,
        "mode": None if state.mode is None else f"{state.mode:04o}",
        "writable": state.writable,
        "free_bytes": state.free_bytes,
        "daemon_running": facts.daemon.running,
        "daemon_pid": facts.daemon.pid,
    }

    return first("state.directory", details, _state_answers(facts))


def _state_answers(facts: Facts) -> Iterator[Answer]:
    state = facts.state
    place = f"{state.directory}: "
    yield from _state_problems(state, place)
    if state.trouble is not None and state.trouble.denied and not facts.root:
        yield Answer(Status.UNKNOWN, place + state.trouble.what, AS_ROOT)
    if state.trouble is not None:
        yield Answer(Status.PROBLEM, place + state.trouble.what, "make it usable, or set state.directory")
    space = f"{_size(state.free_bytes or 0)} free"
    if state.free_bytes is not None and state.free_bytes < ENOUGH_FREE_BYTES:
        yield Answer(Status.ADVICE, place + space, "free some space on that file system")
    if not state.exists:
        yield Answer(Status.FINE, f"{place}not there yet, the daemon makes it; {space}")
    running = f", used by the daemon (pid {facts.daemon.pid})" if facts.daemon.running else ""
    if state.writable is None:
        text = f"{place}belongs to user {state.owner}{running}; not looked whether it is writable"
        yield Answer(Status.UNKNOWN, text, AS_ROOT)
    yield Answer(Status.FINE, f"{place}{space}{running}")


def _state_problems(state: StateFacts, place: str) -> Iterator[Answer]:
    def wrong(text: str, remedy: str) -> Answer:
        return Answer(Status.PROBLEM, place + text, remedy)

    if not state.parent:
        yield wrong("its parent directory does not exist", "create that, or set state.directory")
    if state.trouble is not None:
        return
    if not state.is_directory:
        what = "not a directory" if state.exists else "its parent is not a directory"
        yield wrong(what, "set state.directory")
    if state.read_only:
        yield wrong("on a read-only file system", "make that writable, or set state.directory")
    if state.exists and (state.mode or 0) & _OTHERS_WRITE:
        yield wrong(f"everybody can write there (mode {state.mode:04o})", f"chmod o-w {state.directory}")
    if state.exists and state.writable is False:
        yield wrong(f"not writable for its owner, user {state.owner}", f"chmod u+rwx {state.directory}")
    if state.free_bytes is not None and state.free_bytes < LEAST_FREE_BYTES:
        yield wrong(f"only {_size(state.free_bytes)} free", "free some space on that file system")
    if state.free_inodes == 0:
        yield wrong("no inodes left on its file system", "delete some files there")


def check_database(facts: Facts) -> Check:
    """Is what the daemon has stored readable, and is everything in it delivered?"""
    database = facts.database
    details = {
        "path": database.path,
        "exists": database.exists,
        "size_bytes": database.size_bytes,
        "pending": database.pending,
        "dead_letters": database.dead,
    }

    return first("state.database", details, _database_answers(facts))


def _database_answers(facts: Facts) -> Iterator[Answer]:
    database, state, trouble = facts.database, facts.state, facts.database.trouble
    place = f"{database.path}: "
    if not database.exists and state.trouble is not None:
        text = "not looked at: the state directory is not accessible"
        yield Answer(Status.UNKNOWN, text, "put state.directory right first" if facts.root else AS_ROOT)
    if not database.exists:
        yield Answer(Status.FINE, "none yet, the daemon makes it")
    if trouble is not None and trouble.denied and not facts.root:
        yield Answer(Status.UNKNOWN, place + trouble.what, AS_ROOT)
    if trouble is not None:
        remedy = trouble.remedy or "restart dmimad: it moves the file aside and begins anew"
        yield Answer(Status.PROBLEM, place + trouble.what, remedy)
    if database.owner is not None and state.owner is not None and database.owner != state.owner:
        text = f"{place}belongs to user {database.owner}, its directory to user {state.owner}"
        yield Answer(Status.ADVICE, text, f"one daemon, one user: chown {state.owner} {database.path}*")
    waiting = f"{count(database.pending, 'alert')} waiting for the broker"
    if database.dead:
        text = f"{place}sound; {count(database.dead, 'alert')} refused by the broker for good, {waiting}"
        yield Answer(Status.ADVICE, text, "see the daemon's log for the reasons: journalctl -u dmimad")
    yield Answer(Status.FINE, f"{place}sound, {_size(database.size_bytes)}, {waiting}")


def check_baseline(facts: Facts) -> Check:
    """Is there a baseline, and is it accepted?"""
    baseline = facts.baseline
    details = {"directory": baseline.directory, "exists": baseline.exists, "entries": baseline.entries}

    def said(status: Status, text: str, remedy: str = "") -> Check:
        return Check("baseline", status, text, remedy, details)

    if baseline.trouble is not None:
        trouble = baseline.trouble
        prefix = "" if trouble.what.startswith(trouble.where) else f"{trouble.where}: "
        if trouble.denied and not facts.root:
            return said(Status.UNKNOWN, f"{prefix}{trouble.what}", AS_ROOT)
        remedy = trouble.remedy or "put it right, and see: dmimad check-config"
        return said(Status.PROBLEM, f"{prefix}{trouble.what}", remedy)
    if baseline.mode is not None and baseline.mode & _OTHERS_WRITE:
        text = f"{baseline.directory}: everybody can approve tables there (mode {baseline.mode:04o})"
        return said(Status.PROBLEM, text, f"chmod o-w {baseline.directory}")
    if not baseline.entries:
        what = "no entries" if baseline.exists else "not there"
        remedy = (
            "approve what there is with `dmimad baseline capture`: without that a changed table is no drift"
        )
        return said(Status.ADVICE, f"{baseline.directory}: {what}", remedy)
    entries = f"{baseline.entries} entr{'y' if baseline.entries == 1 else 'ies'}"
    return said(Status.FINE, f"{baseline.directory}: {entries}")


def _size(count_bytes: int) -> str:
    amount, units = float(count_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.0f} {units[0]}" if amount >= 10 or units[0] == "B" else f"{amount:.1f} {units[0]}"
