"""Settings: defaults, everything that is refused and how it is said, the default file, the host id."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from dmimad import config, settings
from dmimad.core.errors import SettingsError
from dmimad.core.transport import uses_tls

ROOT = Path(__file__).parent.parent
DEFAULTS = config.parse(b"", "none", host_id=lambda: "test-host")


def parse(text: str) -> settings.Settings:
    return config.parse(text.encode(), "/etc/x.toml", host_id=lambda: "test-host")


# --- what is accepted ---


def test_defaults_are_those_of_the_contract() -> None:
    assert dataclasses.asdict(DEFAULTS) == {
        "host": {"id": "test-host"},
        "source": {"path": "auto", "poll_interval_seconds": 0.1, "hold_open": True, "trim_expected": False},
        "live": {"enabled": True, "socket": "auto", "interval_seconds": 30.0, "wake_ups": True},
        "tpm": {"enabled": True, "interval_seconds": 60.0},
        "mqtt": {
            "enabled": True,
            "host": "127.0.0.1",
            "port": 1883,
            "protocol": 5,
            "username": "",
            "password_file": "",
            "allow_plain_password": False,
            "tls": "auto",
            "tls_ca_file": "",
            "tls_cert_file": "",
            "tls_key_file": "",
            "keepalive_seconds": 30,
            "max_in_flight": 64,
            "max_attempts": 5,
        },
        "metrics": {
            "enabled": True,
            "address": "127.0.0.1",
            "port": 9837,
            "tls_cert_file": "",
            "tls_key_file": "",
            "tls_client_ca_file": "",
        },
        "page": {
            "enabled": True,
            "address": "127.0.0.1",
            "port": 9838,
            "tls_cert_file": "",
            "tls_key_file": "",
            "tls_client_ca_file": "",
            "allow_anyone": False,
        },
        "control": {"socket": "/run/dmimad/control.sock", "users": ()},
        "state": {"directory": "/var/lib/dmimad"},
        "baseline": {
            "directory": "/etc/dmimad/baseline.d",
            "trusted_keys": (),
            "unexpected_devices": True,
        },
        "alerts": {
            "hold_off_seconds": 2.0,
            "storm_threshold": 20,
            "storm_window_seconds": 10.0,
            "flap_threshold": 4,
            "flap_window_seconds": 600.0,
            "signing_key_file": "",
        },
        "log": {"level": "info", "format": "auto"},
    }


def test_every_setting_can_be_set() -> None:
    settings = parse(
        """
        host.id = "web-1"
        [source]
        path = "/run/list"
        poll_interval_seconds = 1
        hold_open = false
        trim_expected = true
        [live]
        enabled = false
        socket = "/run/other.sock"
        interval_seconds = 5
        wake_ups = false
        [tpm]
        enabled = false
        interval_seconds = 5
        [mqtt]
        enabled = false
        host = "broker.example.org"
        port = 8883
        protocol = 3
        username = "dmimad"
        password_file = "/p"
        allow_plain_password = true
        tls = "on"
        tls_ca_file = "/ca"
        tls_cert_file = "/cert"
        tls_key_file = "/key"
        keepalive_seconds = 10
        max_in_flight = 1
        max_attempts = 2
        [metrics]
        enabled = false
        address = "::1"
        port = 0
        tls_cert_file = "/m"
        tls_key_file = "/mk"
        tls_client_ca_file = "/mca"
        [page]
        enabled = false
        address = "::1"
        port = 0
        tls_cert_file = "/w"
        tls_key_file = "/wk"
        tls_client_ca_file = "/wca"
        allow_anyone = true
        [control]
        socket = ""
        users = ["admin", "1000"]
        [state]
        directory = "/state"
        [baseline]
        directory = "/baseline"
        trusted_keys = ["/a.pub", "/b.pub"]
        unexpected_devices = false
        [alerts]
        hold_off_seconds = 0
        storm_threshold = 0
        storm_window_seconds = 1
        flap_threshold = 0
        flap_window_seconds = 60
        signing_key_file = "/sign"
        [log]
        level = "debug"
        format = "json"
        """
    )
    assert settings.source.poll_interval_seconds == 1.0
    assert type(settings.source.poll_interval_seconds) is float
    assert settings.baseline.trusted_keys == ("/a.pub", "/b.pub")
    unchanged = [
        f"{section}.{key}"
        for section, values in dataclasses.asdict(settings).items()
        for key, value in values.items()
        if value == dataclasses.asdict(DEFAULTS)[section][key]
    ]
    assert unchanged == []


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULTS.mqtt.port = 1  # type: ignore[misc]  # that it is refused is the point


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ('[source]\npath = "lists/a"', "source", "path", "/etc/lists/a"),
        ('[source]\npath = "auto"', "source", "path", "auto"),
        ('[source]\npath = "./auto"', "source", "path", "/etc/auto"),
        ('[mqtt]\npassword_file = "secret"', "mqtt", "password_file", "/etc/secret"),
        ('[mqtt]\npassword_file = ""', "mqtt", "password_file", ""),
        ('[control]\nsocket = "control.sock"', "control", "socket", "/etc/control.sock"),
        ('[control]\nsocket = ""', "control", "socket", ""),
        (
            '[baseline]\ntrusted_keys = ["a.pub", "/b.pub"]',
            "baseline",
            "trusted_keys",
            ("/etc/a.pub", "/b.pub"),
        ),
        ('[mqtt]\nhost = "fe80::1%eth0"', "mqtt", "host", "fe80::1%eth0"),
        ('[mqtt]\nusername = "only"', "mqtt", "username", "only"),
        ('[mqtt]\npassword_file = "/p"', "mqtt", "password_file", "/p"),
        ('[host]\nid = "Büro 7"', "host", "id", "Büro 7"),
        ('[host]\nid = ""', "host", "id", "test-host"),
        ("mqtt = {port = 1884}\r\n", "mqtt", "port", 1884),
    ],
)
def test_values_as_they_arrive(text: str, section: str, key: str, value: object) -> None:
    assert getattr(getattr(parse(text), section), key) == value


# --- what is refused: the whole message ---

LEVELS = "debug, info, warning or error"
REFUSED = [
    # unknown names
    ("[mqt]\nport = 1", ':1: mqt: unknown section; did you mean "mqtt"?'),
    (
        "[network]\nport = 1",
        ":1: network: unknown section; there are "
        "host, source, live, tpm, mqtt, metrics, page, control, state, baseline, alerts, log",
    ),
    ("\nport = 1", ":2: port: belongs in a section: [mqtt] or [metrics] or [page]"),
    ("nonsense = 1", ":1: nonsense: unknown setting, outside of any section"),
    ("[mqtt]\nprot = 5", ':2: mqtt.prot: unknown setting in [mqtt]; did you mean "protocol"?'),
    (
        "[mqtt]\nkeepalive = 5",
        ':2: mqtt.keepalive: unknown setting in [mqtt]; did you mean "keepalive_seconds"?',
    ),
    ('[mqtt]\npassword = "x"', ':2: mqtt.password: unknown setting in [mqtt]; did you mean "password_file"?'),
    ("[mqtt]\nPort = 1", ':2: mqtt.Port: unknown setting in [mqtt]; did you mean "port"?'),
    ("[mqtt]\naddress = 1", ":2: mqtt.address: unknown setting in [mqtt]; it belongs in [metrics] or [page]"),
    ("[log]\nxyzzy = 1", ":2: log.xyzzy: unknown setting in [log]; there are level, format"),
    ('[log]\n"" = 1', ":2: log.: unknown setting in [log]; there are level, format"),
    ('[log]\n"a\\nb\\u001b" = 1', r":1: log.a\nb\x1b: unknown setting in [log]; there are level, format"),
    (
        "[mqtt.ssl]\nca = 1",
        ":1: mqtt.ssl: unknown setting in [mqtt]; there are enabled, host, port, protocol, username, "
        "password_file, allow_plain_password, tls, tls_ca_file, tls_cert_file, tls_key_file, "
        "keepalive_seconds, max_in_flight, "
        "max_attempts",
    ),
    # wrong types
    ("mqtt = 5", ":1: mqtt: must be a section, written [mqtt], not the number 5"),
    ("[[mqtt]]\nport = 1", ":1: mqtt: must be a section, written [mqtt], not a list of sections"),
    ('[mqtt]\nport = "1883"', ':2: mqtt.port: must be a whole number, not the string "1883"'),
    ("[mqtt]\nport = 1883.0", ":2: mqtt.port: must be a whole number, not the number 1883.0"),
    ("[mqtt]\nport = true", ":2: mqtt.port: must be a whole number, not true"),
    ("[mqtt]\nport = [1883]", ":2: mqtt.port: must be a whole number, not a list of other things"),
    ("[mqtt]\nport = {}", ":2: mqtt.port: must be a whole number, not a section"),
    ("[mqtt]\nport = 2026-11-22", ":2: mqtt.port: must be a whole number, not a date or time"),
    ("[mqtt]\nenabled = 1", ":2: mqtt.enabled: must be true or false, not the number 1"),
    ('[mqtt]\nenabled = "yes"', ':2: mqtt.enabled: must be true or false, not the string "yes"'),
    ("[mqtt]\nhost = false", ":2: mqtt.host: must be a string, not false"),
    ("[alerts]\nhold_off_seconds = true", ":2: alerts.hold_off_seconds: must be a number, not true"),
    (
        '[alerts]\nhold_off_seconds = "2s"',
        ':2: alerts.hold_off_seconds: must be a number, not the string "2s"',
    ),
    (
        '[baseline]\ntrusted_keys = "/a"',
        ':2: baseline.trusted_keys: must be a list of strings, not the string "/a"',
    ),
    (
        '[baseline]\ntrusted_keys = ["/a", 1]',
        ":2: baseline.trusted_keys: must be a list of strings, not a list of other things",
    ),
    # ranges and choices
    ("[mqtt]\nport = 0", ":2: mqtt.port: must be 1 to 65535, not 0"),
    ("[mqtt]\nport = 65536", ":2: mqtt.port: must be 1 to 65535, not 65536"),
    ("[metrics]\nport = -1", ":2: metrics.port: must be 0 to 65535, not -1"),
    ("[metrics]\nport = 65536", ":2: metrics.port: must be 0 to 65535, not 65536"),
    ("[mqtt]\nprotocol = 4", ":2: mqtt.protocol: must be 3 or 5, not 4"),
    ('[mqtt]\nprotocol = "3.1.1"', ':2: mqtt.protocol: must be a whole number, not the string "3.1.1"'),
    ("[mqtt]\nkeepalive_seconds = 0", ":2: mqtt.keepalive_seconds: must be 1 to 65535, not 0"),
    ("[mqtt]\nmax_in_flight = 0", ":2: mqtt.max_in_flight: must be 1 to 65535, not 0"),
    ("[mqtt]\nmax_attempts = 1001", ":2: mqtt.max_attempts: must be 1 to 1000, not 1001"),
    ("[source]\npoll_interval_seconds = 0", ":2: source.poll_interval_seconds: must be 0.01 to 3600, not 0"),
    (
        "[source]\npoll_interval_seconds = nan",
        ":2: source.poll_interval_seconds: must be 0.01 to 3600, not NaN",
    ),
    ("[alerts]\nhold_off_seconds = -0.5", ":2: alerts.hold_off_seconds: must be 0 to 86400, not -0.5"),
    ("[alerts]\nhold_off_seconds = inf", ":2: alerts.hold_off_seconds: must be 0 to 86400, not Infinity"),
    (f"[mqtt]\nport = 0x{'f' * 5000}", ":2: mqtt.port: must be 1 to 65535, not a very long number"),
    ('[log]\nlevel = "warn"', f':2: log.level: must be {LEVELS}, not "warn"; did you mean "warning"?'),
    ('[log]\nlevel = "INFO"', f':2: log.level: must be {LEVELS}, not "INFO"; did you mean "info"?'),
    ('[log]\nlevel = ""', f':2: log.level: must be {LEVELS}, not ""'),
    ('[log]\nformat = "xml"', ':2: log.format: must be auto, journal, console or json, not "xml"'),
    (
        f'[log]\nformat = "{"y" * 1000}"',
        f':2: log.format: must be auto, journal, console or json, not "{"y" * 59}…',
    ),
    # host id, addresses, paths
    ('[host]\nid = "a/b"', ":2: host.id: must be one MQTT topic level: no '/', '+' or '#'"),
    ('[host]\nid = "+"', ":2: host.id: must be one MQTT topic level: no '/', '+' or '#'"),
    ('[host]\nid = "#"', ":2: host.id: must be one MQTT topic level: no '/', '+' or '#'"),
    ('[host]\nid = "a\\u0000"', ":2: host.id: must not contain control characters"),
    ('[host]\nid = "a\\u0085"', ":2: host.id: must not contain control characters"),
    ('[host]\nid = " "', ":2: host.id: must not begin or end with white space"),
    (f'[host]\nid = "{"é" * 65}"', ":2: host.id: must be at most 128 bytes long"),
    ('[mqtt]\nhost = ""', ":2: mqtt.host: must not be empty"),
    ('[mqtt]\nhost = "mqtt://b"', ":2: mqtt.host: must be a host name or an IP address alone, not a URL"),
    (
        '[mqtt]\nhost = "b:1883"',
        ":2: mqtt.host: must be a host name or an IP address alone; the port has a setting of its own",
    ),
    ('[metrics]\naddress = "[::1]"', ":2: metrics.address: must be an IP address without brackets"),
    ('[metrics]\naddress = "a b"', ":2: metrics.address: must be a host name or an IP address"),
    ('[metrics]\naddress = "localhost\\n"', ":2: metrics.address: must be a host name or an IP address"),
    (f'[metrics]\naddress = "{"a" * 254}"', ":2: metrics.address: must be a host name or an IP address"),
    ('[mqtt]\nusername = "a\\u0000"', ":2: mqtt.username: must not contain a NUL character"),
    ('[control]\nusers = ["a", "b c"]', ":2: control.users: must be names or ids of users"),
    ('[control]\nusers = [""]', ":2: control.users: must be names or ids of users"),
    ('[control]\nusers = ["a\\n"]', ":2: control.users: must be names or ids of users"),
    ('[state]\ndirectory = ""', ":2: state.directory: must not be empty"),
    ('[state]\ndirectory = "/a\\u0000b"', ":2: state.directory: must not contain a NUL character"),
    ('[source]\npath = ""', ":2: source.path: must not be empty"),
    (
        '[mqtt]\ntls_ca_file = "~/ca.pem"',
        ":2: mqtt.tls_ca_file: must be a path without '~', which only a shell expands",
    ),
    ('[baseline]\ntrusted_keys = ["/a", ""]', ":2: baseline.trusted_keys: must not be empty"),
    # settings that do not go together
    (
        '[mqtt]\ntls_cert_file = "/c"',
        ":2: mqtt.tls_cert_file: needs tls_key_file, the private key of the certificate",
    ),
    ('[mqtt]\ntls_key_file = "/k"', ":2: mqtt.tls_key_file: needs tls_cert_file, the certificate of the key"),
    (
        '[metrics]\ntls_cert_file = "/c"',
        ":2: metrics.tls_cert_file: needs tls_key_file, the private key of the certificate",
    ),
    (
        '[metrics]\ntls_key_file = "/k"',
        ":2: metrics.tls_key_file: needs tls_cert_file, the certificate of the key",
    ),
    (
        '[metrics]\ntls_client_ca_file = "/c"',
        ":2: metrics.tls_client_ca_file: needs tls_cert_file and tls_key_file: "
        "without TLS nobody shows a certificate",
    ),
    (
        '[page]\ntls_client_ca_file = "/c"',
        ":2: page.tls_client_ca_file: needs tls_cert_file and tls_key_file: "
        "without TLS nobody shows a certificate",
    ),
    (
        '[page]\nport = 1\naddress = "192.0.2.1"\ntls_cert_file = "/c"\ntls_key_file = "/k"',
        ":3: page.address: would show the page to everybody who reaches 192.0.2.1; "
        "demand certificates of them (tls_client_ca_file), or allow it with allow_anyone = true",
    ),
    (
        '[page]\naddress = "::"',
        ":2: page.address: would show the page to everybody who reaches ::; demand certificates of them "
        "(tls_client_ca_file), or allow it with allow_anyone = true",
    ),
    ('[mqtt]\ntls = "ON"', ':2: mqtt.tls: must be auto, on or off, not "ON"; did you mean "on"?'),
    (
        '[mqtt]\ntls = "off"\ntls_ca_file = "/c"',
        ':2: mqtt.tls: is "off", but tls_ca_file is set, which is for TLS; set one of them',
    ),
    (
        '[mqtt]\nhost = "b.example.org"\ntls = "off"\nusername = "u"\npassword_file = "/p"',
        ":5: mqtt.password_file: would cross the network to b.example.org in the clear; "
        'use TLS (leave tls at "auto"), or allow it with allow_plain_password = true',
    ),
    (
        '[mqtt]\nhost = "192.0.2.1"\ntls = "off"\nusername = "u"',
        ":4: mqtt.username: would cross the network to 192.0.2.1 in the clear; "
        'use TLS (leave tls at "auto"), or allow it with allow_plain_password = true',
    ),
    (
        '[mqtt]\nprotocol = 3\npassword_file = "/p"',
        ":3: mqtt.password_file: needs username: MQTT 3.1.1 has no password without one",
    ),
    # not TOML
    ("[mqtt]\nport 1", ":2: is not valid TOML: Expected '=' after a key in a key/value pair"),
    ("[mqtt]\nport = 1\nport = 2", ":3: is not valid TOML: Cannot overwrite a value"),
    ("[mqtt]\n[mqtt]", ":2: is not valid TOML: Cannot declare ('mqtt',) twice"),
    ('a = """\nx\n\n', ":2: is not valid TOML: Unterminated string"),
    ("a = " + "[" * 20_000, ": is not valid TOML: nested too deeply, or a number too long"),
    ("a = " + "9" * 5_000, ": is not valid TOML: nested too deeply, or a number too long"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[message[:60] for _, message in REFUSED])
def test_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(text)
    assert str(refused.value) == "/etc/x.toml" + message
    assert "\n" not in str(refused.value)


def test_the_refusal_carries_its_parts() -> None:
    with pytest.raises(SettingsError) as refused:
        parse("\n[metrics]\nport = 70000\n")
    error = refused.value
    assert (error.file, error.line, error.key) == ("/etc/x.toml", 3, "metrics.port")
    assert error.reason == "must be 0 to 65535, not 70000"


def test_bytes_that_are_not_utf8_are_refused_with_their_line() -> None:
    with pytest.raises(SettingsError) as refused:
        config.parse(b'[mqtt]\n\nhost = "caf\xe9"\n', "/etc/x.toml")
    assert str(refused.value) == "/etc/x.toml:3: is not UTF-8 text"


# --- lines ---


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# port = 0\n[mqtt]\n\n  port = 0", 4),
        ("[metrics]\nport = 1\n[mqtt]\nport = 0", 4),
        ("[metrics]\nport = 1\n[ mqtt ] # port = 0\nport = 0", 4),
        ("mqtt.port = 0", 1),
        ("\"mqtt\" . 'port' = 0", 1),
        ('[mqtt]\n"port" = 0', 2),
        ("\nmqtt = { host = 'a', port = 0 }", 2),
        ('[mqtt]\nusername = """\nport = 1 \\\n"""\nport = 0', 5),
        ("[mqtt]\nusername = '''\n[metrics]\nport = 1\n'''\nport = 0", 6),
        ('[baseline]\ntrusted_keys = [\n"port = 1",\n]\n[mqtt]\nport = 0', 6),
        ("[mqtt]\r\nport = 0\r\n", 2),
        ('[mqtt]\nusername = "a\u2028b"\nport = 0', 3),
        ("[mqtt]\n" + "#\n" * 100 + "port = 0", 102),
    ],
)
def test_line_of_a_key_however_it_is_written(text: str, line: int) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(text)
    assert (refused.value.line, refused.value.key) == (line, "mqtt.port")


def test_a_file_made_to_hide_a_line_costs_the_line_and_no_more() -> None:
    text = "[mqtt]\nusername = '''\n" + "port = 1\n" * 1000 + "'''\nport = 0"
    with pytest.raises(SettingsError) as refused:
        parse(text)
    assert (refused.value.key, refused.value.line) == ("mqtt.port", 1)


# --- files ---


def test_a_file_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('[host]\nid = "web-1"\n[state]\ndirectory = "state"\n')
    settings = config.load(file)
    assert settings.host.id == "web-1"
    assert settings.state.directory == str(tmp_path / "state")


def test_the_default_file_may_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "etc" / "dmimad.toml")
    assert config.load(host_id=lambda: "test-host") == DEFAULTS


def test_the_default_file_is_read_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "dmimad.toml")
    (tmp_path / "dmimad.toml").write_text("[mqtt]\nport = 1884\n")
    assert config.load(host_id=lambda: "test-host").mqtt.port == 1884


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        config.load(tmp_path / "none.toml")
    assert str(refused.value) == f"{tmp_path}/none.toml: there is no such file; the defaults need none"


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        config.load(tmp_path)
    assert str(refused.value) == f"{tmp_path}: cannot be read: Is a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.touch(mode=0)
    with pytest.raises(SettingsError) as refused:
        config.load(file)
    assert (
        str(refused.value) == f"{file}: cannot be read: Permission denied; read it as root or change its mode"
    )


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(b"#" * 65_536)
    assert config.load(file, host_id=lambda: "test-host") == DEFAULTS
    file.write_bytes(b"#" * 65_537)
    with pytest.raises(SettingsError) as refused:
        config.load(file)
    assert str(refused.value) == f"{file}: is larger than 65536 bytes: not a settings file"


# --- the default file and the reference ---


def test_the_shipped_file_is_the_one_the_code_makes() -> None:
    assert (ROOT / "config" / "dmimad.toml").read_text() == settings.default_file()


def test_the_shipped_file_sets_nothing_so_that_another_default_is_taken() -> None:
    assert config.load(ROOT / "config" / "dmimad.toml", host_id=lambda: "test-host") == DEFAULTS
    document = tomllib.loads((ROOT / "config" / "dmimad.toml").read_text())
    assert document == {section: {} for section in dataclasses.asdict(DEFAULTS)}


def test_the_shipped_file_has_every_setting_at_its_default() -> None:
    lines = (ROOT / "config" / "dmimad.toml").read_text().splitlines()
    shown = [number for number, line in enumerate(lines) if re.match(r"#[a-z_]+ = ", line)]
    for number in shown:
        assert re.fullmatch(r"# .+\.", lines[number - 1]), lines[number]
    assert max(map(len, lines)) <= 110
    text = "\n".join(line[1:] if number in shown else line for number, line in enumerate(lines))
    assert config.parse(text.encode(), "/x", host_id=lambda: "test-host") == DEFAULTS
    written = {section: set(table) for section, table in tomllib.loads(text).items()}
    assert written == {section: set(values) for section, values in dataclasses.asdict(DEFAULTS).items()}


# --- TLS and passwords ---


@pytest.mark.parametrize(
    ("lines", "tls", "port"),
    [
        ("", False, 1883),
        ('host = "localhost"', False, 1883),
        ('host = "LOCALHOST"', False, 1883),
        ('host = "127.3.2.1"', False, 1883),
        ('host = "::1"', False, 1883),
        ('host = "127.0.0.1"\nusername = "u"\npassword_file = "/p"', False, 1883),
        ('host = "127.0.0.1"\ntls_ca_file = "/ca"', True, 8883),
        ('tls_cert_file = "/c"\ntls_key_file = "/k"', True, 8883),
        ('tls = "on"', True, 8883),
        ('tls = "on"\nport = 1883', True, 1883),
        ('host = "broker.example.org"', True, 8883),
        ('host = "broker.example.org"\nusername = "u"\npassword_file = "/p"', True, 8883),
        ('host = "broker.example.org"\nport = 1883', True, 1883),
        ('host = "localhost.localdomain"', True, 8883),  # whatever it resolves to
        ('host = "127.0.0.1.example.org"', True, 8883),
        ('host = "::ffff:127.0.0.1"', True, 8883),
        ('host = "0.0.0.0"', True, 8883),
        ('host = "192.0.2.1"\ntls = "off"', False, 1883),
        (
            'host = "192.0.2.1"\ntls = "off"\nusername = "u"\nallow_plain_password = true',
            False,
            1883,
        ),
        ('host = "192.0.2.1"\ntls = "off"\nusername = "u"\nenabled = false', False, 1883),
    ],
)
def test_tls_is_on_as_soon_as_the_broker_is_not_the_loopback(lines: str, tls: bool, port: int) -> None:
    mqtt = parse(f"[mqtt]\n{lines}").mqtt
    assert (uses_tls(mqtt), mqtt.port) == (tls, port)


def test_what_crosses_the_network_in_the_clear_is_told() -> None:
    assert config.in_clear(DEFAULTS) == []
    assert config.in_clear(parse('[mqtt]\nhost = "b"\n[metrics]\naddress = "::"\nenabled = false')) == []
    served = '[metrics]\naddress = "::"\ntls_cert_file = "/c"\ntls_key_file = "/k"'
    assert config.in_clear(parse(served)) == []
    plain = '[mqtt]\nhost = "b"\ntls = "off"\n'
    assert config.in_clear(parse(plain + '[metrics]\naddress = "0.0.0.0"')) == [
        'mqtt: alerts cross the network to b in the clear; leave mqtt.tls at "auto"',
        "metrics: everybody who reaches 0.0.0.0 can read them, device names among them; "
        "set metrics.tls_cert_file, metrics.tls_key_file and metrics.tls_client_ca_file",
    ]
    allowed = 'username = "u"\nallow_plain_password = true\n'
    assert config.in_clear(parse(plain + allowed)) == [
        'mqtt: user name, password and alerts cross the network to b in the clear; leave mqtt.tls at "auto"'
    ]


@pytest.mark.parametrize(
    "lines",
    [
        'address = "localhost"',
        'address = "127.8.0.1"',
        'address = "0.0.0.0"\nallow_anyone = true',
        'address = "0.0.0.0"\nenabled = false',
        'address = "0.0.0.0"\ntls_cert_file = "/c"\ntls_key_file = "/k"\ntls_client_ca_file = "/a"',
    ],
)
def test_the_page_is_for_this_host_or_for_known_browsers(lines: str) -> None:
    assert config.in_clear(parse(f"[page]\n{lines}")) == (
        [
            "page: everybody who reaches 0.0.0.0 can read it; "
            "set page.tls_cert_file, page.tls_key_file and page.tls_client_ca_file"
        ]
        if "allow_anyone" in lines
        else []
    )


def test_the_reference_has_all_that_a_reader_needs() -> None:
    rows = {f"{row.section}.{row.key}": row for row in settings.reference()}
    assert rows["mqtt.port"] == settings.Setting(
        "mqtt",
        "port",
        "whole number",
        "1883",
        "1 to 65535",
        "Port of the broker; where none is set, 8883 with TLS.",
    )
    assert rows["log.level"].allowed == LEVELS
    assert rows["baseline.trusted_keys"].default == "[]"
    assert len(rows) == sum(len(values) for values in dataclasses.asdict(DEFAULTS).values())
    for row in rows.values():
        assert row.explanation.endswith(".")
        assert "\n" not in row.explanation


# --- the host id ---

MACHINE_ID = "3d1219c7c4c5404aaa1f6d2a48adfda4"


def host_id(tmp_path: Path, *contents: str | None, hostname: str = "web-1.example.org") -> str:
    files = [tmp_path / str(number) for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        if content is not None:
            file.write_text(content)
    return config.derived_host_id(files, lambda: hostname)


def test_host_id_comes_from_the_machine_id_and_does_not_show_it(tmp_path: Path) -> None:
    derived = host_id(tmp_path, MACHINE_ID + "\n")
    # Part of what others rely on: a change would move every topic.
    assert derived == "54546f15e2e7"
    assert derived not in MACHINE_ID


@pytest.mark.skipif(shutil.which("systemd-id128") is None, reason="systemd-id128 is not installed")
def test_host_id_is_what_systemd_derives() -> None:
    machine_id_file = Path("/etc/machine-id")
    if not machine_id_file.exists() or not re.fullmatch(r"[0-9a-f]{32}\n?", machine_id_file.read_text()):
        pytest.skip("this host has no machine id")
    application = "c159a9ba35c32d5b5362c2f38e472c3c"
    command = ["systemd-id128", "machine-id", f"--app-specific={application}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert config.derived_host_id([machine_id_file]) == answer.stdout.strip()[:12]


@pytest.mark.parametrize(
    "first", [None, "", "uninitialized\n", "0" * 32 + "\n", MACHINE_ID.upper(), "x" * 5000]
)
def test_host_id_takes_the_next_file_where_one_has_none(tmp_path: Path, first: str | None) -> None:
    assert host_id(tmp_path, first, MACHINE_ID) == "54546f15e2e7"


def test_host_id_falls_back_to_the_hostname(tmp_path: Path) -> None:
    assert host_id(tmp_path, None, "") == "web-1.example.org"
    assert host_id(tmp_path, None, hostname="a/+#\0é b") == "a------b"
    assert host_id(tmp_path, None, hostname="") == "localhost"
    assert host_id(tmp_path, None, hostname="h" * 500) == "h" * 128


def test_the_default_host_id_of_this_host_is_accepted_as_a_setting() -> None:
    derived = config.derived_host_id()
    assert config.parse(b"", "none").host.id == derived
    assert parse(f"[host]\nid = {json.dumps(derived)}").host.id == derived


def test_a_fifo_does_not_hold_it_up(tmp_path: Path) -> None:
    """A reload would stop the daemon with it."""
    fifo = tmp_path / "dmimad.toml"
    os.mkfifo(fifo)
    with pytest.raises(SettingsError, match=r"dmimad\.toml: is a FIFO; a reload reads it again"):
        config.load(fifo)
