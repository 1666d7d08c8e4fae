"""What the publisher connects with: the settings in [mqtt], and the last good password, certificate and CAs.

Files are read at each new connection and at each reload.  What is broken, half replaced or in wrong hands is
refused, and what was good the last time stays in force, so that a mistake in a rotation costs nothing
before it is mended.

What it does not do: notice by itself that a file has changed while a connection lasts.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from dmimad.adapters.certificates import expiry
from dmimad.adapters.credentials import explained, readable
from dmimad.adapters.http.tls import server_context
from dmimad.adapters.mqtt.tls import Credentials, read_credentials
from dmimad.config import Caution
from dmimad.core.errors import AdapterError
from dmimad.core.transport import uses_tls
from dmimad.settings import MetricsSettings, MqttSettings, PageSettings, Settings

SERVICE_USER = "dmimad"
SOON_SECONDS = 14 * 24 * 3600.0
"""A certificate that expires so soon is worth a warning."""

Served = MetricsSettings | PageSettings
"""An endpoint that others connect to."""

_Section = TypeVar("_Section", bound=MqttSettings | MetricsSettings | PageSettings)


def with_readable_files(section: _Section, environ: Mapping[str, str]) -> _Section:
    """The section with its files where this process can read them (systemd's credentials)."""
    names = [each.name for each in fields(section) if each.name.endswith("_file")]
    found: dict[str, Any] = {
        name: str(readable(Path(path), environ)) for name in names if (path := getattr(section, name))
    }
    return replace(section, **found)


def certificate_expiry(section: MqttSettings | Served) -> float | None:
    """When our own certificate for this use expires, in Unix seconds; None without a usable one."""
    if section.tls_cert_file:
        with contextlib.suppress(AdapterError):  # told where it is used
            return expiry(section.tls_cert_file)
    return None


class KeptCredentials:
    """The last good ones, and when the certificate among them expires.

    Args:
        environ: where the service manager tells of credentials.
        told: called with what is wrong at a connection, "" if nothing is; from any thread.
    """

    def __init__(self, environ: Mapping[str, str], told: Callable[[str], None]) -> None:
        self.good: Credentials | None = None
        self.expiry: float | None = None
        self._environ = environ
        self._told = told

    def take(self, mqtt: MqttSettings) -> Credentials:
        """Read the files; raises AdapterError, and keeps the last good ones, if these are not."""
        found = with_readable_files(mqtt, self._environ)
        with explained(self._environ):
            self.good = read_credentials(found, f"{mqtt.host}:{mqtt.port}")
        self.expiry = certificate_expiry(found)
        return self.good

    def for_connection(self, mqtt: MqttSettings) -> Credentials:
        """Those of the files, or the last good ones; raises AdapterError if there are none either."""
        try:
            found = self.take(mqtt)
        except AdapterError as error:
            self._told(str(error))
            if self.good is None:
                raise
            return self.good
        self._told("")
        return found


@dataclass(frozen=True, slots=True)
class BrokerAccess(MqttSettings):
    """Settings as the MQTT adapter takes them when it is not to read the files itself."""

    kept: KeptCredentials | None = None

    @classmethod
    def of(cls, mqtt: MqttSettings, kept: KeptCredentials) -> BrokerAccess:
        """These settings, with what is kept."""
        return cls(**{each.name: getattr(mqtt, each.name) for each in fields(MqttSettings)}, kept=kept)

    def credentials(self) -> Credentials:
        """For the next connection."""
        if self.kept is None:
            return read_credentials(self, f"{self.host}:{self.port}")
        return self.kept.for_connection(self)


# -- without a daemon ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checked:
    """What can be said of files for TLS and of the password: one line each."""

    fine: tuple[str, ...]
    warnings: tuple[str, ...]


def service_users() -> tuple[int, ...]:
    """Who may own a secret beside root: the service's user, and whoever runs this."""
    try:
        return os.geteuid(), pwd.getpwnam(SERVICE_USER).pw_uid
    except KeyError:  # it is not installed as a service
        return (os.geteuid(),)


def check_files(settings: Settings, environ: Mapping[str, str], now: float) -> Checked:
    """Whether the daemon could use them; raises AdapterError with what is wrong."""
    mqtt = settings.mqtt
    fine: list[str] = []
    warnings: list[str] = []
    if mqtt.enabled:
        found = with_readable_files(mqtt, environ)
        read_credentials(found, f"{mqtt.host}:{mqtt.port}", service_users())
        how = "TLS, verified by " + (mqtt.tls_ca_file or "the system's CAs") if uses_tls(mqtt) else "no TLS"
        fine.append(f"mqtt: {mqtt.host}:{mqtt.port}, {how}")
        warnings += map(str, _expiring("mqtt.tls_cert_file", found, now))
    for name in ("metrics", "page"):
        served: Served = getattr(settings, name)
        if served.enabled:
            how, expiring = check_served_files(served, name, environ, now)
            fine.append(f"{name}: {served.address} port {served.port}, {how}")
            warnings += map(str, expiring)
    return Checked(tuple(fine), tuple(warnings))


def check_served_files(
    served: Served, name: str, environ: Mapping[str, str], now: float
) -> tuple[str, list[Caution]]:
    """How an endpoint, `name` in the settings, is served with its files; AdapterError: it cannot be."""
    readable_ones = with_readable_files(served, environ)
    server_context(readable_ones, service_users(), section=name)
    clients = ", only for clients with a certificate" if served.tls_client_ca_file else ""
    how = f"TLS{clients}" if served.tls_cert_file else "no TLS"
    return how, _expiring(f"{name}.tls_cert_file", readable_ones, now)


def _expiring(setting: str, section: MqttSettings | Served, now: float) -> list[Caution]:
    """That our own certificate is of no use any more, or soon will not be."""
    ends = certificate_expiry(section)
    if ends is None or ends - now > SOON_SECONDS:
        return []
    moment = datetime.fromtimestamp(ends, UTC)
    verb = "has expired" if ends <= now else "expires"
    what = f"{section.tls_cert_file} {verb} {moment:%Y-%m-%d %H:%M} UTC"
    return [Caution(setting, what, "renew it")]
