"""The settings file: TOML in, frozen settings out; anything unknown or wrong is refused.

Source: TOML 1.0 as `tomllib` reads it; systemd's `sd_id128_get_machine_app_specific` for the default
host id.

What this module does not do: say which settings there are (`dmimad.settings`), open the files that they
name, resolve hosts, or apply anything.
"""

from __future__ import annotations

import difflib
import hashlib
import hmac
import json
import os
import re
import socket
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from dmimad.core.errors import SettingsError
from dmimad.core.transport import (
    is_loopback,
    sends_password_in_clear,
    uses_tls,
    usual_port,
)
from dmimad.settings import (
    KINDS,
    MAX_HOST_ID_BYTES,
    HostSettings,
    MetricsSettings,
    MqttSettings,
    PageSettings,
    Rule,
    Settings,
    alternatives,
    reference,
    sections,
)

DEFAULT_FILE = Path("/etc/dmimad/dmimad.toml")
MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))

MAX_FILE_BYTES = 64 * 1024
MAX_SHOWN_CHARS = 60
"""How much of a wrong value an error message repeats."""
MAX_LINE_PROBES = 16
"""Statements tried when looking for the line of a key; beyond it the message names no line."""

# What the host id is derived with: never change it, every subscriber's topics depend on it.
_APPLICATION_ID = bytes.fromhex("c159a9ba35c32d5b5362c2f38e472c3c")
_HOST_ID_DIGITS = 12


# --- from a file ---


def load(file: Path | None = None, *, host_id: Callable[[], str] | None = None) -> Settings:
    """The settings in `file`; None is the default file, which may be absent.

    `host_id` gives the id of a host whose settings name none; it defaults to `derived_host_id`.
    Raises SettingsError with file, line, key and reason.
    """
    path = DEFAULT_FILE if file is None else file
    try:
        with open(path, "rb", opener=_open) as stream:
            fifo = stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
            data = b"" if fifo else stream.read(MAX_FILE_BYTES + 1)
        if fifo:
            raise SettingsError(str(path), "is a FIFO; a reload reads it again, so it must be a file")
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


def _open(path: str, flags: int) -> int:
    """Not to be held by a FIFO that nobody writes."""
    return os.open(path, flags | os.O_NONBLOCK)


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
    known = sections()
    read: dict[str, Any] = {}
    for name, table in document.items():
        if name not in known:
            raise _Refused([name], _unknown_section(name, table))
        if not isinstance(table, dict):
            raise _Refused([name], f"must be a section, written [{name}], not {_kind(table)}")
        read[name] = _section(name, known[name], table, directory)
    settings = Settings(**read)
    if "port" not in document.get("mqtt", {}):
        settings = replace(settings, mqtt=replace(settings.mqtt, port=usual_port(settings.mqtt)))
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
    return f"must be {article}{KINDS[wanted]}, not {_kind(value)}"


def _wrong_value(rule: Rule, value: Any) -> str:
    if rule.choices and value not in rule.choices:
        hint = _did_you_mean(value, [choice for choice in rule.choices if isinstance(choice, str)])
        return f"must be {alternatives(rule.choices)}, not {_shown(value)}{hint}"
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


def _converted(default: object, rule: Rule, value: Any, directory: Path) -> object:
    if isinstance(default, float):
        return float(value)

    def resolved(item: str) -> str:
        return str(directory / item) if rule.file and item not in ("", default) else item

    if isinstance(value, list):
        return tuple(resolved(item) for item in value)
    return resolved(value) if isinstance(value, str) else value


def _check_together(settings: Settings) -> None:
    for section in ("mqtt", "metrics", "page"):
        values = getattr(settings, section)
        if values.tls_cert_file and not values.tls_key_file:
            raise _Refused(
                [section, "tls_cert_file"], "needs tls_key_file, the private key of the certificate"
            )
        if values.tls_key_file and not values.tls_cert_file:
            raise _Refused([section, "tls_key_file"], "needs tls_cert_file, the certificate of the key")
    for section in ("metrics", "page"):
        values = getattr(settings, section)
        if values.tls_client_ca_file and not values.tls_cert_file:
            reason = "needs tls_cert_file and tls_key_file: without TLS nobody shows a certificate"
            raise _Refused([section, "tls_client_ca_file"], reason)
    _check_page(settings.page)
    _check_mqtt(settings.mqtt)


def open_to_anyone(page: PageSettings) -> bool:
    """Whether others than who may use this host could see the page, and nobody has said that they may."""
    return not (page.tls_client_ca_file or page.allow_anyone or is_loopback(page.address))


def _check_page(page: PageSettings) -> None:
    if page.enabled and open_to_anyone(page):
        reason = (
            f"would show the page to everybody who reaches {page.address}; demand certificates of them "
            "(tls_client_ca_file), or allow it with allow_anyone = true"
        )
        raise _Refused(["page", "address"], reason)


def _check_mqtt(mqtt: MqttSettings) -> None:
    if mqtt.password_file and not mqtt.username and mqtt.protocol == 3:
        raise _Refused(["mqtt", "password_file"], "needs username: MQTT 3.1.1 has no password without one")
    if mqtt.tls == "off":
        for name in ("tls_ca_file", "tls_cert_file"):
            if getattr(mqtt, name):
                raise _Refused(
                    ["mqtt", "tls"], f'is "off", but {name} is set, which is for TLS; set one of them'
                )
    if mqtt.enabled and sends_password_in_clear(mqtt):
        reason = (
            f'would cross the network to {mqtt.host} in the clear; use TLS (leave tls at "auto"), '
            "or allow it with allow_plain_password = true"
        )
        raise _Refused(["mqtt", "password_file" if mqtt.password_file else "username"], reason)


class Caution(NamedTuple):
    """What works, and should not stay so: of which section or setting, and what to do about it."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"


def in_clear(settings: Settings) -> list[str]:
    """What crosses the network in the clear with these settings, one line each, and what to do about it."""
    mqtt, found = settings.mqtt, []
    if mqtt.enabled and not uses_tls(mqtt) and not is_loopback(mqtt.host):
        what = "user name, password and alerts" if mqtt.username or mqtt.password_file else "alerts"
        crossing = f"{what} cross the network to {mqtt.host} in the clear"
        found.append(Caution("mqtt", crossing, 'leave mqtt.tls at "auto"'))
    found += [*metrics_in_clear(settings.metrics), *page_in_clear(settings.page)]
    return list(map(str, found))


def metrics_in_clear(metrics: MetricsSettings) -> list[Caution]:
    """That others than who may use this host can read the metrics."""
    if not metrics.enabled or metrics.tls_cert_file or is_loopback(metrics.address):
        return []
    what = f"everybody who reaches {metrics.address} can read them, device names among them"
    return [Caution("metrics", what, _demand_certificates("metrics"))]


def page_in_clear(page: PageSettings) -> list[Caution]:
    """That others than who may use this host can read the page."""
    if not page.enabled or page.tls_client_ca_file or is_loopback(page.address):
        return []
    what = f"everybody who reaches {page.address} can read it"
    return [Caution("page", what, _demand_certificates("page"))]


def _demand_certificates(section: str) -> str:
    return f"set {section}.tls_cert_file, {section}.tls_key_file and {section}.tls_client_ca_file"


def page_hidden(settings: Settings) -> list[Caution]:
    """That the page's port is that of the metrics; no reason not to watch the host."""
    metrics, page = settings.metrics, settings.page
    everywhere = {metrics.address, page.address} & {"0.0.0.0", "::"}
    together = everywhere or metrics.address.lower() == page.address.lower()
    if not (metrics.enabled and page.enabled and together and metrics.port == page.port != 0):
        return []
    what = f"its port {page.port} is that of the metrics, so it cannot be served"
    return [Caution("page", what, "choose another page.port")]


# --- messages ---


def _unknown_section(name: str, table: object) -> str:
    if not isinstance(table, dict | list):
        owners = [setting.section for setting in reference() if setting.key == name]
        if owners:
            return "belongs in a section: " + " or ".join(f"[{owner}]" for owner in owners)
        return "unknown setting, outside of any section"
    names = list(sections())
    hint = _did_you_mean(name, names)
    return "unknown section" + (hint or "; there are " + ", ".join(names))


def _unknown_key(section: str, key: str, known: Sequence[str]) -> str:
    owners = [setting.section for setting in reference() if setting.key == key]
    if owners:
        places = " or ".join(f"[{owner}]" for owner in owners)
        return f"unknown setting in [{section}]; it belongs in {places}"
    hint = _did_you_mean(key, known)
    return f"unknown setting in [{section}]" + (hint or "; there are " + ", ".join(known))


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
