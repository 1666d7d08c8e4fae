"""What the administrator has configured, taken in again while the daemon runs.

That is settings, baseline, certificates and keys.  Each is taken in or refused by itself.  Of what is refused
the last good one stays in force; status, log and metric say so until it is mended.  The list is followed
meanwhile, and what is not delivered yet waits in the store: a reload loses neither a record nor an alert.

What it does not do: watch files (a baseline directory is watched by its adapter), or apply what needs a
restart: that is told until there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dmimad.adapters.credentials import explained
from dmimad.adapters.http.tls import server_context
from dmimad.baselines import Baselines, signer, trusted_keys
from dmimad.broker_access import (
    BrokerAccess,
    KeptCredentials,
    Served,
    certificate_expiry,
    with_readable_files,
)
from dmimad.config import in_clear, open_to_anyone
from dmimad.core.baseline import Baseline
from dmimad.core.errors import AdapterError, BaselineError, DmimadError, SignatureError
from dmimad.core.monitor import Monitor, Policy
from dmimad.core.status import Refused
from dmimad.settings import MqttSettings, PageSettings, Settings

if TYPE_CHECKING:
    import ssl

    from structlog.typing import FilteringBoundLogger

SETTINGS, BASELINE, MQTT, METRICS, PAGE = "settings", "baseline", "mqtt", "metrics", "page"
"""What may be refused by itself; the last three: files for that use, or the page as a whole."""

#: Sections that are not applied before a restart; of [metrics] and [page] all but the files for TLS.
_FIXED = ("host", "source", "state", "metrics", "page", "control", "live", "tpm")
_SERVED = (METRICS, PAGE)


class Reloadable(Protocol):
    """The daemon, as far as it is changed here."""

    settings: Settings

    @property
    def monitor(self) -> Monitor: ...

    @property
    def page_url(self) -> str: ...

    def commit(self) -> None:
        """Store what has changed."""
        ...

    async def publish_anew(self) -> None:
        """End the connection to the broker, and begin another with the settings in force."""
        ...

    async def watch_elsewhere(self) -> None:
        """The baseline directory is another one."""
        ...

    def serve_with(self, use: str, tls: ssl.SSLContext | None) -> None:
        """Metrics or page, from the next connection on."""
        ...

    def serve_page(self) -> None:
        """Begin to, if it is to be served and is not yet."""
        ...


class Surrounding(Protocol):
    """What is used of the daemon's surroundings."""

    @property
    def load_settings(self) -> Callable[[], Settings]: ...
    @property
    def environ(self) -> Mapping[str, str]: ...
    @property
    def wall_clock(self) -> Callable[[], float]: ...
    @property
    def set_log_level(self) -> Callable[[str], None]: ...


class Reloading:
    """What is in force, what was refused, and how to take in what is there now."""

    def __init__(
        self, daemon: Reloadable, baselines: Baselines, outside: Surrounding, log: FilteringBoundLogger
    ) -> None:
        self.restart_needed: tuple[str, ...] = ()
        self.last_success: float | None = None
        self._daemon = daemon
        self._baselines = baselines
        self._outside = outside
        self._log = log
        self._refused: dict[str, Refused] = {}
        self._mqtt_waits = False  # the settings in [mqtt] are others than those in force
        self._unsigned = ""  # why the baseline directory is not signed as it must be
        self._access = KeptCredentials(outside.environ, self._at_connection)
        self._expiry: dict[str, float | None] = {}
        self._in_clear: list[str] = []

    # -- what is told ----------------------------------------------------------------------

    @property
    def refused(self) -> tuple[Refused, ...]:
        """In the order in which they were refused."""
        return tuple(self._refused.copy().values())

    def accepted(self, what: str) -> bool:
        """Whether what was read last of this is in force."""
        return what not in self._refused

    @property
    def certificate_expiry(self) -> Mapping[str, float]:
        """Of our own certificates, by use."""
        found = {MQTT: self._access.expiry, **self._expiry}
        return {use: seconds for use, seconds in found.items() if seconds is not None}

    def _refuse(self, what: str, problem: str) -> None:
        known = self._refused.get(what)
        if known is None or known.reason != problem:
            self._refused[what] = Refused(what, problem, self._outside.wall_clock())

    def _accept(self, what: str) -> None:
        self._refused.pop(what, None)

    def _succeeded(self) -> None:
        if not self._refused:
            self.last_success = self._outside.wall_clock()

    def _at_connection(self, problem: str) -> None:
        """What the files for the broker are like; called in the thread that connects."""
        known = self._refused.get(MQTT)
        if self._mqtt_waits:
            return  # the files of the settings in force say nothing of those that were refused
        if not problem:
            self._accept(MQTT)
        elif known is None or known.reason != problem:
            self._refuse(MQTT, problem)
            self._log_files(MQTT, problem)

    def _log_files(self, use: str, problem: str) -> None:
        kept = "none: there are no last good ones" if self._access.good is None else "the last good ones"
        self._log.error(
            "files_refused", use=use, problem=problem, kept=kept if use == MQTT else "the last good ones"
        )

    # -- the start -------------------------------------------------------------------------

    def first_baseline(self) -> Baseline:
        """The one to start with: without a good one in the directory, the last good one where there is one.

        Raises:
            BaselineError, AdapterError: there is none, and that is not for want of a signature.
        """
        directory = Path(self._daemon.settings.baseline.directory)
        try:
            return self._baselines.read(directory)
        except (BaselineError, AdapterError) as error:
            last = self._baselines.last_good()
            if last is None and not isinstance(error, SignatureError):
                raise
            self._refuse(BASELINE, str(error))
            self._unsigned = str(error) if isinstance(error, SignatureError) else ""
            kept = "none: there is no last good one" if last is None else "the last good one"
            self._log.error("baseline_refused", problem=str(error), kept=kept)
            return Baseline() if last is None else last

    def first_files(self) -> None:
        """Those for the broker; without good ones there is no connection, and the rest goes on."""
        mqtt = self._daemon.settings.mqtt
        if mqtt.enabled:
            try:
                self._access.take(mqtt)
            except AdapterError as error:
                self._refuse(MQTT, str(error))
                self._log_files(MQTT, str(error))
        self._tell_in_clear()
        self._succeeded()

    def _tell_in_clear(self) -> None:
        """Each once, as long as it is so."""
        before, self._in_clear = self._in_clear, in_clear(self._daemon.settings)
        for problem in self._in_clear:
            if problem not in before:
                self._log.warning("in_clear", problem=problem)

    def first_tls(self, use: str) -> ssl.SSLContext | None:
        """For the endpoint of metrics or page; raises AdapterError."""
        return self._tls(use, getattr(self._daemon.settings, use))

    def page_unavailable(self, problem: str) -> None:
        """The page cannot be served, or can be: "".  It is tried again and again, and told once."""
        if not problem:
            self._accept(PAGE)
            return
        known = self._refused.get(PAGE)
        if known is None or known.reason != problem:
            self._refuse(PAGE, problem)
            self._log.warning("page_unavailable", problem=problem)

    def broker_access(self) -> BrokerAccess:
        """What the publisher connects with."""
        return BrokerAccess.of(self._daemon.settings.mqtt, self._access)

    def judge_signatures(self) -> None:
        """Say whether the baseline directory is signed as it must be."""
        now = self._outside.wall_clock()
        if self._unsigned:
            self._daemon.monitor.hold_baseline(self._unsigned, now)
        elif self.accepted(BASELINE):
            self._daemon.monitor.cease_baseline(now)

    # -- again -----------------------------------------------------------------------------

    async def reload(self) -> None:
        """Take in everything that is good, and say what is not."""
        try:
            new = self._outside.load_settings()
            keys, sign = trusted_keys(new), signer(new, self._outside.environ)
        except DmimadError as error:
            self._refuse(SETTINGS, str(error))
            self._log.error("reload_refused", problem=str(error), kept="the settings in force")
            return
        self._accept(SETTINGS)
        daemon, old = self._daemon, self._daemon.settings
        mqtt, connect_anew = await self._mqtt(old.mqtt, new.mqtt)
        served = {use: self._served(use, getattr(old, use), getattr(new, use)) for use in _SERVED}
        self._tell_restart(old, new)
        in_force = {name: getattr(old, name) for name in _FIXED}
        daemon.settings = replace(new, **{**in_force, **served, "mqtt": mqtt})
        daemon.serve_page()
        self._outside.set_log_level(new.log.level)
        self._tell_in_clear()
        self._baselines.keys, daemon.monitor.sign = keys, sign
        if new.baseline.directory != old.baseline.directory:
            await daemon.watch_elsewhere()
        baseline = self._read_baseline()
        daemon.monitor.set_policy(policy(daemon.settings), self._outside.wall_clock(), baseline)
        daemon.commit()
        if connect_anew:
            await daemon.publish_anew()
        self._succeeded()
        if not self._refused:
            self._log.info("reloaded")

    def reload_baseline(self) -> None:
        """Another baseline, or the last good one if this one is refused."""
        baseline = self._read_baseline()
        if baseline is not None:
            self._daemon.monitor.set_baseline(baseline, self._outside.wall_clock())
        self._daemon.commit()
        if self.accepted(BASELINE):
            self._succeeded()

    def _read_baseline(self) -> Baseline | None:
        """Another one than is in force, if there is one that is good."""
        try:
            baseline = self._baselines.read(Path(self._daemon.settings.baseline.directory))
        except (BaselineError, AdapterError) as error:
            self._refuse(BASELINE, str(error))
            self._log.error("baseline_refused", problem=str(error), kept="the last good one")
            if isinstance(error, SignatureError):
                self._unsigned = str(error)
                self.judge_signatures()
            return None
        self._unsigned = ""
        self._accept(BASELINE)
        self.judge_signatures()
        if baseline == self._daemon.monitor.baseline:
            return None
        self._log.info("baseline_loaded", entries=len(baseline.entries))
        return baseline

    async def _mqtt(self, old: MqttSettings, new: MqttSettings) -> tuple[MqttSettings, bool]:
        """The settings to be in force, and whether that takes another connection."""
        before = self._access.good
        self._mqtt_waits = False
        if not new.enabled:
            self._accept(MQTT)
            return new, new != old
        try:
            # Apart: a file may be on a file system that does not answer.
            found = await asyncio.to_thread(self._access.take, new)
        except AdapterError as error:
            self._refuse(MQTT, str(error))
            self._log_files(MQTT, str(error))
            if before is None or not old.enabled:
                return new, new != old
            self._mqtt_waits = new != old
            return old, False
        self._accept(MQTT)
        changed = before is None or found.digest != before.digest
        if changed and old.enabled:
            self._log.info("files_loaded", use=MQTT)
        return new, changed or new != old

    def _served(self, use: str, old: Served, new: Served) -> Served:
        """The settings of an endpoint to be in force: but for the files the old ones."""
        if not old.enabled:
            return old
        wanted = _with_files_of(new, old)
        if isinstance(wanted, PageSettings) and open_to_anyone(wanted):
            return old  # these files go with another address, which waits for a restart
        try:
            context = self._tls(use, wanted)
        except AdapterError as error:
            self._refuse(use, str(error))
            self._log_files(use, str(error))
            return old
        if use != PAGE or self._daemon.page_url:
            self._accept(use)
        self._daemon.serve_with(use, context)
        return wanted

    def _tls(self, use: str, served: Served) -> ssl.SSLContext | None:
        found = with_readable_files(served, self._outside.environ)
        with explained(self._outside.environ):
            context = server_context(found, section=use)
        self._expiry[use] = certificate_expiry(found)
        return context

    def _tell_restart(self, old: Settings, new: Settings) -> None:
        changed = {name for name in _FIXED if getattr(old, name) != getattr(new, name)}
        for use in _SERVED:
            before: Served = getattr(old, use)
            if before.enabled and _with_files_of(before, getattr(new, use)) == before:
                changed.discard(use)
        self.restart_needed = tuple(sorted(changed))
        if changed:
            self._log.warning("restart_needed", sections=sorted(changed))


def _with_files_of(files: Served, served: Served) -> Served:
    """These settings, but for the files for TLS."""
    return replace(
        served,
        tls_cert_file=files.tls_cert_file,
        tls_key_file=files.tls_key_file,
        tls_client_ca_file=files.tls_client_ca_file,
    )


def policy(settings: Settings) -> Policy:
    """The settings as the core takes them."""
    return Policy(
        settings.host.id,
        settings.alerts.hold_off_seconds,
        settings.baseline.unexpected_devices,
        settings.source.trim_expected,
        settings.alerts.storm_threshold,
        settings.alerts.storm_window_seconds,
        settings.alerts.flap_threshold,
        settings.alerts.flap_window_seconds,
    )
