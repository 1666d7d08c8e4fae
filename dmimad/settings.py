"""The settings there are: names, types, defaults, ranges, and what each is for.

Source: MQTT 5 §4.7 for topic levels.

Each setting is written once, as a field of its section's dataclass.  `reference()` gives them as rows,
`default_file()` as the commented file that ships as `config/dmimad.toml`.  To add a setting, add a field.

What this module does not do: read a settings file (`dmimad.config`), open the files that settings name,
resolve hosts, or apply anything.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from dmimad.core.transport import PLAIN_PORT, TLS_MODES

MAX_HOST_ID_BYTES = 128

T = TypeVar("T")


# --- what a value may be: each check returns what is wrong, or "" ---


def _check_host_id(value: str) -> str:
    if any(character in "/+#" for character in value):
        return "must be one MQTT topic level: no '/', '+' or '#'"
    if any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in value):
        return "must not contain control characters"
    if value != value.strip():
        return "must not begin or end with white space"
    if len(value.encode("utf-8", "backslashreplace")) > MAX_HOST_ID_BYTES:
        return f"must be at most {MAX_HOST_ID_BYTES} bytes long"
    return ""


def _check_path(value: str) -> str:
    if not value:
        return "must not be empty"
    return _check_optional_path(value)


def _check_optional_path(value: str) -> str:
    if "\0" in value:
        return "must not contain a NUL character"
    if value.startswith("~"):
        return "must be a path without '~', which only a shell expands"
    return ""


_NOT_AN_ADDRESS = (
    (r"", "must not be empty"),
    (r"\[.*\]", "must be an IP address without brackets"),
    (r".*://.*", "must be a host name or an IP address alone, not a URL"),
    (r"[^:]*:\d+", "must be a host name or an IP address alone; the port has a setting of its own"),
)
_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?")


def _check_address(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        for pattern, reason in _NOT_AN_ADDRESS:
            if re.fullmatch(pattern, value):
                return reason
        return "" if _HOST_NAME.fullmatch(value) else "must be a host name or an IP address"
    return ""


def _check_user(value: str) -> str:
    fine = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,255}\$?", value)
    return "" if fine else "must be names or ids of users"


def _check_username(value: str) -> str:
    return "must not contain a NUL character" if "\0" in value else ""


# --- the settings ---


@dataclass(frozen=True, slots=True)
class Rule:
    """What a field's metadata says beside its name, type and default."""

    explanation: str
    minimum: float | None
    maximum: float | None
    choices: tuple[object, ...]
    check: Callable[[str], str] | None
    file: bool


def _setting(
    default: T,
    explanation: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[T, ...] = (),
    check: Callable[[str], str] | None = None,
    file: bool = False,
) -> T:
    """One setting.

    `check` looks at each string; `file`: a relative path counts from the settings file's directory.
    """
    rule = Rule(explanation, minimum, maximum, choices, check, file)
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Who this host is."""

    id: str = _setting(
        "",
        "Name of this host in MQTT topics and alerts; empty: derived from the machine id.",
        check=_check_host_id,
    )


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Where the measurement list is read."""

    path: str = _setting(
        "auto",
        "The list to follow: auto for the kernel's own, or a file that a list is mirrored to.",
        check=_check_path,
        file=True,
    )
    poll_interval_seconds: float = _setting(
        0.1, "How often the kernel's record count is looked at.", minimum=0.01, maximum=3600.0
    )
    hold_open: bool = _setting(
        True, "Keep the list open, so that nobody can trim it; false lets others trim it."
    )
    trim_expected: bool = _setting(
        False, "Trimming by others is planned: report it as information while no record is lost by it."
    )


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """The second witness: the tables that are live in the kernel."""

    enabled: bool = _setting(True, "Compare with the live tables; false where dm ioctls are not to be used.")
    socket: str = _setting(
        "auto",
        "The observer's socket; auto: /run/dmimad/live.sock, or an observer of the daemon's own.",
        check=_check_path,
        file=True,
    )
    interval_seconds: float = _setting(
        30.0, "Look at the live tables at least this often.", minimum=0.1, maximum=86400.0
    )
    wake_ups: bool = _setting(True, "Look at once when the kernel announces a change to a mapped device.")


@dataclass(frozen=True, slots=True)
class TpmSettings:
    """The TPM's PCR 10, which seals the list."""

    enabled: bool = _setting(True, "Compare the list with the PCR where there is a TPM.")
    interval_seconds: float = _setting(
        60.0, "Compare at least this often, beside after new records.", minimum=1.0, maximum=86400.0
    )


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """The broker that alerts and device states are published to."""

    enabled: bool = _setting(True, "Publish over MQTT; if not, the newest 1000 alerts are kept for later.")
    host: str = _setting("127.0.0.1", "Name or address of the broker.", check=_check_address)
    port: int = _setting(
        PLAIN_PORT, "Port of the broker; where none is set, 8883 with TLS.", minimum=1, maximum=65535
    )
    protocol: int = _setting(5, "Version of MQTT: 5, or 3 for 3.1.1.", choices=(3, 5))
    username: str = _setting("", "User name for the broker; empty: none.", check=_check_username)
    password_file: str = _setting(
        "", "File with the password for the broker; empty: none.", check=_check_optional_path, file=True
    )
    allow_plain_password: bool = _setting(
        False, "Send user name and password to another host without TLS, where everybody can read them."
    )
    tls: str = _setting(
        "auto",
        "Use TLS; auto: if the broker is not on the loopback, or files for it are set.",
        choices=TLS_MODES,
    )
    tls_ca_file: str = _setting(
        "",
        "CAs that the broker's certificate is checked against (PEM); empty: the system's.",
        check=_check_optional_path,
        file=True,
    )
    tls_cert_file: str = _setting(
        "", "Certificate that this client shows to the broker (PEM).", check=_check_optional_path, file=True
    )
    tls_key_file: str = _setting(
        "", "Private key of that certificate (PEM).", check=_check_optional_path, file=True
    )
    keepalive_seconds: int = _setting(
        30, "After this silence client and broker make sure of each other.", minimum=1, maximum=65535
    )
    max_in_flight: int = _setting(
        64, "Alerts that may wait for the broker's acknowledgement at once.", minimum=1, maximum=65535
    )
    max_attempts: int = _setting(
        5,
        "Times the broker may reject an alert before it is put with the dead letters.",
        minimum=1,
        maximum=1000,
    )


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """The endpoint that Prometheus scrapes."""

    enabled: bool = _setting(True, "Serve metrics at http://address:port/metrics.")
    address: str = _setting(
        "127.0.0.1", "Address to listen on; 0.0.0.0 or :: for all of them.", check=_check_address
    )
    port: int = _setting(9837, "Port to listen on; 0: any free one.", minimum=0, maximum=65535)
    tls_cert_file: str = _setting(
        "", "Certificate to serve with TLS (PEM); empty: no TLS.", check=_check_optional_path, file=True
    )
    tls_key_file: str = _setting(
        "", "Private key of that certificate (PEM).", check=_check_optional_path, file=True
    )
    tls_client_ca_file: str = _setting(
        "",
        "CAs that clients must have a certificate of (PEM); empty: clients need none.",
        check=_check_optional_path,
        file=True,
    )


@dataclass(frozen=True, slots=True)
class PageSettings:
    """The status page, for people with a browser."""

    enabled: bool = _setting(True, "Serve the status page at http://address:port/.")
    address: str = _setting(
        "127.0.0.1",
        "Address to listen on; any but a loopback one takes client certificates, or allow_anyone.",
        check=_check_address,
    )
    port: int = _setting(9838, "Port to listen on; 0: any free one.", minimum=0, maximum=65535)
    tls_cert_file: str = _setting(
        "", "Certificate to serve with TLS (PEM); empty: no TLS.", check=_check_optional_path, file=True
    )
    tls_key_file: str = _setting(
        "", "Private key of that certificate (PEM).", check=_check_optional_path, file=True
    )
    tls_client_ca_file: str = _setting(
        "",
        "CAs that browsers must have a certificate of (PEM); empty: they need none.",
        check=_check_optional_path,
        file=True,
    )
    allow_anyone: bool = _setting(
        False, "Show the page to everybody who reaches an address that is not a loopback one."
    )


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The socket that `dmimad status` and `dmimad maintenance` talk to."""

    socket: str = _setting(
        "/run/dmimad/control.sock", "Where to listen; empty: nowhere.", check=_check_optional_path, file=True
    )
    users: tuple[str, ...] = _setting(
        (),
        "Users, by name or id, who may ask too; only root and the daemon's own user may change anything.",
        check=_check_user,
    )


@dataclass(frozen=True, slots=True)
class StateSettings:
    """What survives a restart."""

    directory: str = _setting(
        "/var/lib/dmimad",
        "Directory of the database with checkpoint, alerts and outbox.",
        check=_check_path,
        file=True,
    )


@dataclass(frozen=True, slots=True)
class BaselineSettings:
    """What is approved."""

    directory: str = _setting(
        "/etc/dmimad/baseline.d", "Directory of the baseline files (*.toml).", check=_check_path, file=True
    )
    trusted_keys: tuple[str, ...] = _setting(
        (),
        "Ed25519 public keys, files or directories, to sign baselines with; empty: they need no signature.",
        check=_check_path,
        file=True,
    )
    unexpected_devices: bool = _setting(True, "Report devices that no baseline entry matches.")


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """When and how alerts are sent."""

    hold_off_seconds: float = _setting(
        2.0, "How long a drift must last before it is an alert.", minimum=0.0, maximum=86400.0
    )
    storm_threshold: int = _setting(
        20, "More alerts than this within the window are told as one; 0: never.", minimum=0, maximum=1000
    )
    storm_window_seconds: float = _setting(10.0, "The window of a storm.", minimum=0.1, maximum=3600.0)
    flap_threshold: int = _setting(
        4,
        "An alert that fires so often within the window is flapping and told as one; 0: never.",
        minimum=0,
        maximum=1000,
    )
    flap_window_seconds: float = _setting(
        600.0, "The window of flapping, and how quiet it must be for its end.", minimum=1.0, maximum=86400.0
    )
    signing_key_file: str = _setting(
        "",
        "Ed25519 private key that alerts are signed with (PEM); empty: not signed.",
        check=_check_optional_path,
        file=True,
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the daemon says on stderr."""

    level: str = _setting(
        "info", "Least severity that is logged.", choices=("debug", "info", "warning", "error")
    )
    format: str = _setting(
        "auto",
        "Form of the lines; auto: what suits where they go.",
        choices=("auto", "journal", "console", "json"),
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings; every one has a default.  `host.id` is never empty in what `load` returns."""

    host: HostSettings = HostSettings()
    source: SourceSettings = SourceSettings()
    live: LiveSettings = LiveSettings()
    tpm: TpmSettings = TpmSettings()
    mqtt: MqttSettings = MqttSettings()
    metrics: MetricsSettings = MetricsSettings()
    page: PageSettings = PageSettings()
    control: ControlSettings = ControlSettings()
    state: StateSettings = StateSettings()
    baseline: BaselineSettings = BaselineSettings()
    alerts: AlertSettings = AlertSettings()
    log: LogSettings = LogSettings()


# --- the same as rows ---


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the reference: `kind` and `allowed` are words for people, `default` is a TOML value."""

    section: str
    key: str
    kind: str
    default: str
    allowed: str
    explanation: str


KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "string",
    tuple: "list of strings",
}


def sections() -> dict[str, Any]:
    """Each section's name and its settings at their defaults."""
    return {section.name: section.default for section in fields(Settings)}


def reference() -> Iterator[Setting]:
    """All settings in the order of the file."""
    for section, defaults in sections().items():
        for entry in fields(defaults):
            rule: Rule = entry.metadata["rule"]
            kind, default = KINDS[type(entry.default)], json.dumps(entry.default, ensure_ascii=False)
            yield Setting(section, entry.name, kind, default, _allowed(rule), rule.explanation)


def default_file() -> str:
    """The file with every setting at its default and commented out: to set one is to change one line."""
    lines = [
        "# Settings of dmimad. Every setting is shown with its default; take away its # to set another.",
        "# Relative paths count from the directory of this file. To check changes: dmimad check-config",
    ]
    section = ""
    for setting in reference():
        if setting.section != section:
            section = setting.section
            purpose = type(getattr(Settings(), section)).__doc__
            lines += ["", f"# {purpose}", f"[{section}]"]
        allowed = f" ({setting.allowed})" if setting.allowed else ""
        lines.append(f"# {setting.explanation.removesuffix('.')}{allowed}.")
        lines.append(f"#{setting.key} = {setting.default}")
    return "\n".join(lines) + "\n"


def _allowed(rule: Rule) -> str:
    if rule.choices:
        return alternatives(rule.choices)
    if rule.minimum is not None and rule.maximum is not None:
        return f"{rule.minimum:g} to {rule.maximum:g}"
    return ""


def alternatives(choices: Sequence[object]) -> str:
    *others, last = map(str, choices)
    return ", ".join(others) + " or " + last
