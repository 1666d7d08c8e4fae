"""The settings file: TOML in, frozen settings out; anything unknown or wrong is refused.

Source: TOML 1.0 as `tomllib` reads it; MQTT 5 §4.7 for topic levels; systemd's
`sd_id128_get_machine_app_specific` for the default host id.

Each setting is written once, as a field of its section's dataclass: name, type, default, range and
explanation.  `reference()` gives them as rows, `default_file()` as the commented file that ships as
`config/dmimad.toml`.  To add a setting, add a field.

What this module does not do: open the files that settings name, resolve hosts, or apply anything.
"""

from __future__ import annotations

import difflib
import hashlib
import hmac
import ipaddress
import json
import re
import socket
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from dmimad.core.errors import SettingsError

DEFAULT_FILE = Path("/etc/dmimad/dmimad.toml")
MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))

MAX_FILE_BYTES = 64 * 1024
MAX_HOST_ID_BYTES = 128
MAX_SHOWN_CHARS = 60
"""How much of a wrong value an error message repeats."""
MAX_LINE_PROBES = 16
"""Statements tried when looking for the line of a key; beyond it the message names no line."""

# What the host id is derived with: never change it, every subscriber's topics depend on it.
_APPLICATION_ID = bytes.fromhex("c159a9ba35c32d5b5362c2f38e472c3c")
_HOST_ID_DIGITS = 12

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
class _Rule:
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
    rule = _Rule(explanation, minimum, maximum, choices, check, file)
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

    enabled: bool = _setting(True, "Publish over MQTT.")
    host: str = _setting("127.0.0.1", "Name or address of the broker.", check=_check_address)
    port: int = _setting(1883, "Port of the broker, usually 8883 with TLS.", minimum=1, maximum=65535)
    protocol: int = _setting(5, "Version of MQTT: 5, or 3 for 3.1.1.", choices=(3, 5))
    username: str = _setting("", "User name for the broker; empty: none.", check=_check_username)
    password_file: str = _setting(
        "", "File with the password for the broker; empty: none.", check=_check_optional_path, file=True
    )
    tls_ca_file: str = _setting(
        "", "Certificates that the broker's is checked against (PEM).", check=_check_optional_path, file=True
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


_KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "string",
    tuple: "list of strings",
}


def _sections() -> dict[str, Any]:
    """Each section's name and its settings at their defaults."""
    return {section.name: section.default for section in fields(Settings)}


def reference() -> Iterator[Setting]:
    """All settings in the order of the file."""
    for section, defaults in _sections().items():
        for entry in fields(defaults):
            rule: _Rule = entry.metadata["rule"]
            kind, default = _KINDS[type(entry.default)], json.dumps(entry.default, ensure_ascii=False)
            yield Setting(section, entry.name, kind, default, _allowed(rule), rule.explanation)


def default_file() -> str:
    """The commented file with every setting at its default."""
    lines = [
        "# Settings of dmimad. Every setting is shown with its default; a file may leave out any of them.",
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
        lines.append(f"{setting.key} = {setting.default}")
    return "\n".join(lines) + "\n"


def _allowed(rule: _Rule) -> str:
    if rule.choices:
        return _alternatives(rule.choices)
    if rule.minimum is not None and rule.maximum is not None:
        return f"{rule.minimum:g} to {rule.maximum:g}"
    return ""


# --- from a file ---


def load(file: Path | None = None, *, host_id: Callable[[], str] | None = None) -> Settings:
    """The settings in `file`; None is the default file, which may be absent.

    `host_id` gives the id of a host whose settings name none; it defaults to `derived_host_id`.
    Raises SettingsError with file, line, key and reason.
    """
    path = DEFAULT_FILE if file is None else file
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        if file is not None:
            raise SettingsError(str(path), "there is no such file; the defaults need none") from error
        data = b""
    except OSError as error:
        remedy = "; read it as root or change its mode" if isinstance(error, PermissionError) else ""
        raise SettingsError(str(path), f"cannot be read: {error.strerror}{remedy}") from error
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError(str(path), f"is larger than {MAX_FILE_BYTES} bytes: not a settings file")
    return parse(data, str(path), host_id=host_id)


def parse(data: bytes, name: str, *, host_id: Callable[[], str] | None = None) -> Settings:
    """The settings in the TOML document `data`; `name` is its file, for messages and relative paths."""
    text, document = _document(data, name)
    try:
        settings = _settings(document, Path(name).absolute().parent)
    except _Refused as refused:
        key = ".".join(map(_plain, refused.path))
        raise SettingsError(name, refused.reason, key=key, line=_line_of(text, refused.path)) from None
    if not settings.host.id:
        settings = replace(settings, host=HostSettings(id=(host_id or derived_host_id)()))
    return settings


class _Refused(Exception):
    """A setting that is refused, before its line is known."""

    def __init__(self, path: Sequence[str], reason: str) -> None:
        super().__init__(reason)
        self.path = tuple(path)
        self.reason = reason


def _document(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    try:
        # As tomllib.load does not: say which line is not UTF-8; newlines as a text file has them.
        text = data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(name, "is not UTF-8 text", line=line) from error
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Python 3.14 has the line as an attribute; before, it is in the text only.
        found = re.fullmatch(r"(?s)(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error))
        reason = found[1] if found else str(error)
        line = int(found[2]) if found and found[2] else text.rstrip("\n").count("\n") + 1
        raise SettingsError(name, f"is not valid TOML: {_plain(reason)}", line=line) from error
    except (RecursionError, ValueError) as error:
        # Brackets nested by the thousand; a number of more digits than Python converts.
        raise SettingsError(name, "is not valid TOML: nested too deeply, or a number too long") from error


def _settings(document: Mapping[str, Any], directory: Path) -> Settings:
    sections = _sections()
    read: dict[str, Any] = {}
    for name, table in document.items():
        if name not in sections:
            raise _Refused([name], _unknown_section(name, table))
        if not isinstance(table, dict):
            raise _Refused([name], f"must be a section, written [{name}], not {_kind(table)}")
        read[name] = _section(name, sections[name], table, directory)
    settings = Settings(**read)
    _check_together(settings)
    return settings


def _section(section: str, defaults: Any, table: Mapping[str, Any], directory: Path) -> Any:
    known = {entry.name: entry for entry in fields(defaults)}
    read: dict[str, object] = {}
    for key, value in table.items():
        if key not in known:
            raise _Refused([section, key], _unknown_key(section, key, list(known)))
        default, rule = known[key].default, known[key].metadata["rule"]
        reason = _wrong_type(default, value) or _wrong_value(rule, value)
        if reason:
            raise _Refused([section, key], reason)
        read[key] = _converted(default, rule, value, directory)
    return replace(defaults, **read)


def _wrong_type(default: object, value: object) -> str:
    wanted = type(default)
    right = {
        tuple: isinstance(value, list) and all(isinstance(item, str) for item in value),
        float: isinstance(value, int | float) and not isinstance(value, bool),
        int: isinstance(value, int) and not isinstance(value, bool),
    }.get(wanted, isinstance(value, wanted))
    if right:
        return ""
    article = "" if wanted is bool else "a "
    return f"must be {article}{_KINDS[wanted]}, not {_kind(value)}"


def _wrong_value(rule: _Rule, value: Any) -> str:
    if rule.choices and value not in rule.choices:
        hint = _did_you_mean(value, [choice for choice in rule.choices if isinstance(choice, str)])
        return f"must be {_alternatives(rule.choices)}, not {_shown(value)}{hint}"
    if rule.minimum is not None and rule.maximum is not None:
        # Written so that nan, which compares false, is refused.
        if not rule.minimum <= value <= rule.maximum:
            return f"must be {rule.minimum:g} to {rule.maximum:g}, not {_shown(value)}"
        return ""
    if rule.check is not None:
        for item in value if isinstance(value, list) else [value]:
            if reason := rule.check(item):
                return reason
    return ""


def _converted(default: object, rule: _Rule, value: Any, directory: Path) -> object:
    if isinstance(default, float):
        return float(value)

    def resolved(item: str) -> str:
        return str(directory / item) if rule.file and item not in ("", default) else item

    if isinstance(value, list):
        return tuple(resolved(item) for item in value)
    return resolved(value) if isinstance(value, str) else value


def _check_together(settings: Settings) -> None:
    mqtt = settings.mqtt
    if mqtt.tls_cert_file and not mqtt.tls_key_file:
        raise _Refused(["mqtt", "tls_cert_file"], "needs tls_key_file, the private key of the certificate")
    if mqtt.tls_key_file and not mqtt.tls_cert_file:
        raise _Refused(["mqtt", "tls_key_file"], "needs tls_cert_file, the certificate of the key")
    if mqtt.password_file and not mqtt.username and mqtt.protocol == 3:
        raise _Refused(["mqtt", "password_file"], "needs username: MQTT 3.1.1 has no password without one")


# --- messages ---


def _unknown_section(name: str, table: object) -> str:
    if not isinstance(table, dict | list):
        owners = [setting.section for setting in reference() if setting.key == name]
        if owners:
            return "belongs in a section: " + " or ".join(f"[{owner}]" for owner in owners)
        return "unknown setting, outside of any section"
    names = list(_sections())
    hint = _did_you_mean(name, names)
    return "unknown section" + (hint or "; there are " + ", ".join(names))


def _unknown_key(section: str, key: str, known: Sequence[str]) -> str:
    owners = [setting.section for setting in reference() if setting.key == key]
    if owners:
        places = " or ".join(f"[{owner}]" for owner in owners)
        return f"unknown setting in [{section}]; it belongs in {places}"
    hint = _did_you_mean(key, known)
    return f"unknown setting in [{section}]" + (hint or "; there are " + ", ".join(known))


def _alternatives(choices: Sequence[object]) -> str:
    *others, last = map(str, choices)
    return ", ".join(others) + " or " + last


def _did_you_mean(given: object, known: Sequence[str]) -> str:
    name = str(given)[:MAX_SHOWN_CHARS].lower()  # cut, for difflib takes quadratic time
    close = [word for word in known if name and word.startswith(name)]
    if len(close) != 1:
        close = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def _kind(value: object) -> str:
    if isinstance(value, list):
        if value and all(isinstance(item, dict) for item in value):
            return "a list of sections"
        return (
            "a list of strings" if all(isinstance(item, str) for item in value) else "a list of other things"
        )
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, bool):
        return _shown(value)
    for kind, name in ((str, "the string"), (int, "the number"), (float, "the number")):
        if isinstance(value, kind):
            return f"{name} {_shown(value)}"
    return "a date or time"


def _shown(value: object) -> str:
    """A value as a message repeats it: one line, of bounded length."""
    try:
        text = json.dumps(value)
    except ValueError:  # a hexadecimal number of more digits than Python writes in decimal
        return "a very long number"
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "…"


def _plain(text: str) -> str:
    """A key as a message repeats it: as written if it is harmless."""
    cut = text if len(text) <= MAX_SHOWN_CHARS * 2 else text[: MAX_SHOWN_CHARS * 2] + "…"
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in cut)


# --- the line of a key ---

_KEY_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_STATEMENT = re.compile(
    rf"[ \t]*(?:(?P<key>{_KEY_PART}(?:[ \t]*\.[ \t]*{_KEY_PART})*)[ \t]*=|(?P<header>\[.*\][ \t]*(?:\#.*)?$))"
)


def _line_of(text: str, path: Sequence[str]) -> int | None:
    """The 1-based line where `path` is first defined, or its section (an inline table), or None.

    tomllib does not say.  A line that looks like the definition is one if the document before it is complete
    (so it is not within a string or a list) and has no `path`, and has it with that line's key after it.
    """
    lines = text.split("\n")  # not splitlines: it knows line ends that TOML does not
    probes = 0
    for number, line in enumerate(lines):
        statement = _STATEMENT.match(line)
        if statement is None or path[-1] not in line:
            continue
        probes += 1
        if probes > MAX_LINE_PROBES:
            break
        before = "".join(line + "\n" for line in lines[:number])
        probe = statement["header"] or statement["key"] + " = 0"
        if _defines(before + probe + "\n", path) and not _defines(before, path):
            return number + 1
    return _line_of(text, path[:-1]) if len(path) > 1 else None


def _defines(text: str, path: Sequence[str]) -> bool:
    try:
        value: Any = tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True


# --- the default host id ---


def derived_host_id(
    files: Sequence[Path] = MACHINE_ID_FILES, hostname: Callable[[], str] = socket.gethostname
) -> str:
    """An id that stays, from the machine id without revealing it; where there is none, the host's name."""
    for file in files:
        try:
            with file.open("rb") as stream:
                found = re.fullmatch(rb"([0-9a-f]{32})\n?", stream.read(64))
        except OSError:
            continue
        if found is not None and set(found[1]) != {ord("0")}:
            machine_id = bytes.fromhex(found[1].decode("ascii"))
            return hmac.new(machine_id, _APPLICATION_ID, hashlib.sha256).hexdigest()[:_HOST_ID_DIGITS]
    name = re.sub(r"[^A-Za-z0-9._-]", "-", hostname())[:MAX_HOST_ID_BYTES]
    return name or "localhost"
