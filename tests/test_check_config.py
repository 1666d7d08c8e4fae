"""`dmimad check-config`: what it says of TLS, certificates and secrets, and what it refuses."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509

from dmimad.adapters.keys import SigningKey, write_pair
from dmimad.cli import main
from tests.certificates import Authority, Signed

DAY = datetime.timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "baseline.d").mkdir()
    return Authority(tmp_path / "pki")


def settings(directory: Path, mqtt: str = "", metrics: str = "") -> str:
    file = directory / "dmimad.toml"
    file.write_text(
        f'[host]\nid = "web-1"\n[baseline]\ndirectory = "{directory}/baseline.d"\n'
        f"[mqtt]\n{mqtt}\n[metrics]\n{metrics}\n"
    )
    return str(file)


def until(signed: Signed) -> str:
    found = x509.load_pem_x509_certificate(signed.certificate.read_bytes())
    return f"{found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"


def test_defaults(tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--config", settings(tmp_path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-3:] == [
        "mqtt: 127.0.0.1:1883, no TLS",
        "metrics: 127.0.0.1 port 9837, no TLS",
        "page: 127.0.0.1 port 9838, no TLS",
    ]


def test_what_is_fine_and_what_soon_is_not(
    tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    soon, old = authority.sign("soon", ends=13 * DAY), authority.sign("old", begins=-3 * DAY, ends=-DAY)
    late = authority.sign("late", ends=15 * DAY)
    mqtt = 'host = "broker.example.org"\ntls_ca_file = "{}"\ntls_cert_file = "{}"\ntls_key_file = "{}"'
    metrics = 'address = "::"\ntls_client_ca_file = "{}"\ntls_cert_file = "{}"\ntls_key_file = "{}"'
    file = settings(
        tmp_path,
        mqtt.format(authority.file, soon.certificate, soon.key),
        metrics.format(authority.file, old.certificate, old.key),
    )
    assert main(["check-config", "--config", file]) == 0
    assert capsys.readouterr().out.splitlines()[-5:] == [
        f"mqtt: broker.example.org:8883, TLS, verified by {authority.file}",
        "metrics: :: port 9837, TLS, only for clients with a certificate",
        "page: 127.0.0.1 port 9838, no TLS",
        f"warning: mqtt.tls_cert_file: {soon.certificate} expires {until(soon)}; renew it",
        f"warning: metrics.tls_cert_file: {old.certificate} has expired {until(old)}; renew it",
    ]
    file = settings(tmp_path, mqtt.format(authority.file, late.certificate, late.key))
    assert main(["check-config", "--config", file]) == 0
    assert "warning" not in capsys.readouterr().out


def test_a_baseline_directory_that_is_not_there(
    tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may come later, or its name is mistyped."""
    file = settings(tmp_path)
    (tmp_path / "baseline.d").rmdir()
    assert main(["check-config", "--config", file]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == f"warning: baseline.directory: there is no {tmp_path}/baseline.d yet"


def test_a_signing_key_that_others_may_read(
    tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "alerts.key"
    write_pair(SigningKey.generate(), key)
    file = settings(tmp_path, metrics=f'[alerts]\nsigning_key_file = "{key}"')
    assert main(["check-config", "--config", file]) == 0
    assert "alerts: signed by ed25519:" in capsys.readouterr().out
    key.chmod(0o644)
    assert main(["check-config", "--config", file]) == 2
    problem = f"{key}: private key: everybody may access it (mode 0644); chmod o= {key}"
    assert capsys.readouterr().err == f"dmimad: {problem}; set by alerts.signing_key_file\n"


def test_plain_text_to_others_is_warned_of(
    tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    file = settings(tmp_path, 'host = "192.0.2.1"\ntls = "off"', 'address = "0.0.0.0"')
    assert main(["check-config", "--config", file]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert [line.split(":")[1] for line in told] == [" mqtt", " metrics"]


@pytest.mark.parametrize(
    ("metrics", "warned"),
    [
        ("port = 9838", True),
        ('port = 9838\naddress = "0.0.0.0"', True),
        ('port = 9838\naddress = "127.0.0.2"', False),
        ("port = 9838\nenabled = false", False),
        ("port = 9839", False),
    ],
)
def test_a_page_and_metrics_of_one_port(
    tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str], metrics: str, warned: bool
) -> None:
    assert main(["check-config", "--config", settings(tmp_path, metrics=metrics)]) == 0
    told = (
        "warning: page: its port 9838 is that of the metrics, so it cannot be served; "
        "choose another page.port"
    )
    assert (told in capsys.readouterr().out.splitlines()) is warned


def test_refusals(tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = authority.sign("first"), authority.sign("second")
    password = tmp_path / "password"
    password.write_text("s3cret")
    password.chmod(0o644)
    cases = {
        f'username = "u"\npassword_file = "{password}"': (
            f"{password}: mqtt.password_file: everybody may access it (mode 0644); chmod o= {password}"
        ),
        f'tls_cert_file = "{first.certificate}"\ntls_key_file = "{second.key}"': (
            f"{first.certificate} {second.key}: mqtt.tls_cert_file, mqtt.tls_key_file: "
            "the private key is not that of the certificate; "
            "put certificate and unencrypted key there (PEM), readable for dmimad"
        ),
        f'tls_ca_file = "{first.key}"': (
            f"{first.key}: mqtt.tls_ca_file: there is no certificate in it (PEM); "
            "put the certificate of the broker's CA there (PEM), readable for dmimad"
        ),
    }
    for mqtt, problem in cases.items():
        assert main(["check-config", "--config", settings(tmp_path, mqtt)]) == 2
        told = capsys.readouterr()
        assert (told.out, told.err) == ("", f"dmimad: {problem}\n")
