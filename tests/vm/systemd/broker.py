"""The broker on another address, as the project's example sets it up: TLS, client certificates, the ACL.

Source: mosquitto.conf(5), mosquitto_sub(1), openssl-req(1), and the package's examples.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BROKER_ADDRESS = "192.0.2.10"
BROKER_NAME = "broker.example.org"
BROKER_PORT = 8883
CONSOLE = "console"
EXAMPLES = Path("/usr/share/doc/dmimad/examples/mosquitto")
SERVICE = "mosquitto.service"
_CERTIFICATES = Path("/etc/mosquitto/certs")
_START_SECONDS = 60.0
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")


class Broker:
    """mosquitto.service and its certificate authority, which keeps what it issues in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def set_up(self, *hosts: str) -> None:
        """Certificates for the broker, the console and these hosts, and the example's settings."""
        self.directory.mkdir(parents=True)
        ca = ("-subj", "/CN=test CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        self._openssl(*_KEY, *ca, "-days", "3650", "-keyout", "ca.key", "-out", "ca.crt")
        self._issue("broker", "serverAuth", "-addext", f"subjectAltName=DNS:{BROKER_NAME}")
        for name in (CONSOLE, *hosts):
            self._issue(name, "clientAuth")
        for name in ("ca.crt", "broker.crt", "broker.key"):
            shutil.copy(self.directory / name, _CERTIFICATES)
            shutil.chown(_CERTIFICATES / name, "mosquitto")
        shutil.copy(EXAMPLES / "dmimad.conf", "/etc/mosquitto/conf.d/")
        shutil.copy(EXAMPLES / "dmimad.acl", "/etc/mosquitto/")
        with Path("/etc/hosts").open("a", encoding="utf-8") as hosts_file:
            hosts_file.write(f"{BROKER_ADDRESS} {BROKER_NAME}\n")
        subprocess.run(["systemctl", "unmask", SERVICE], check=True, capture_output=True)

    def _issue(self, name: str, usage: str, *more: str) -> None:
        signed = (
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-extensions",
            "usr_cert",
            "-addext",
            f"extendedKeyUsage={usage}",
        )
        files = ("-keyout", f"{name}.key", "-out", f"{name}.crt")
        self._openssl(*_KEY, "-subj", f"/CN={name}", "-days", "825", *signed, *more, *files)

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(
            ["openssl", "req", "-x509", *arguments],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, f"openssl req {' '.join(arguments)}: {done.stderr.decode()}"

    def start(self) -> None:
        """It listens when this returns."""
        done = subprocess.run(["systemctl", "start", SERVICE], capture_output=True, check=False)
        assert done.returncode == 0, f"mosquitto does not start: {done.stderr.decode()}"
        deadline = time.monotonic() + _START_SECONDS
        while not _listens(BROKER_PORT):
            assert time.monotonic() < deadline, f"mosquitto does not listen on {BROKER_PORT}"
            time.sleep(0.1)

    def stop(self) -> None:
        subprocess.run(["systemctl", "stop", SERVICE], check=True, capture_output=True)

    def client_options(self) -> Sequence[str]:
        """Of mosquitto's clients, as the console."""
        return (
            *("-h", BROKER_NAME, "-p", str(BROKER_PORT), "--cafile", f"{self.directory}/ca.crt"),
            *("--cert", f"{self.directory}/{CONSOLE}.crt", "--key", f"{self.directory}/{CONSOLE}.key"),
        )

    def listen_options(self) -> Sequence[str]:
        """Of `dmimad listen`, as the console."""
        return (
            *("--host", BROKER_NAME, "--port", str(BROKER_PORT), "--tls-ca-file", f"{self.directory}/ca.crt"),
            *("--tls-cert-file", f"{self.directory}/{CONSOLE}.crt"),
            *("--tls-key-file", f"{self.directory}/{CONSOLE}.key", "--client-id", "listener"),
        )


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it came; ``arrived`` is the time.time() of that."""

    arrived: float
    retained: bool
    topic: str
    payload: bytes


class Subscriber:
    """mosquitto_sub, whose session the broker keeps; what it prints goes to a file."""

    def __init__(self, broker: Broker, host: str, file: Path) -> None:
        self._file = file
        self._root = f"dmimad/v1/{host}/"
        self._command = (
            *("mosquitto_sub", *broker.client_options(), "-V", "mqttv5", "-q", "1"),
            *("-i", "subscriber", "-c", "-x", "86400", "-t", self._root + "#", "-F", "%U %r %t %x"),
        )
        self._process = self._begin()

    def _begin(self) -> subprocess.Popen[bytes]:
        with self._file.open("ab") as out:
            return subprocess.Popen(
                ["stdbuf", "-oL", *self._command], stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def keep(self) -> None:
        """Begin again if it has given up, as it does when its certificate is not valid for a moment."""
        if self._process.poll() is not None:
            self._process = self._begin()

    def messages(self) -> list[Message]:
        """All that came so far, in order."""
        found = []
        # Without what is just being written: a long line comes in pieces.
        whole, _, _ = self._file.read_text(encoding="utf-8").rpartition("\n")
        for line in whole.splitlines():
            if match := re.fullmatch(r"(\d+\.\d+) ([01]) (\S+) ([0-9a-f]*)", line):
                found.append(Message(float(match[1]), match[2] == "1", match[3], bytes.fromhex(match[4])))
        return found

    def onlines(self) -> list[Message]:
        """The `online`s."""
        return [
            message
            for message in self.messages()
            if self._is(message, "status") and message.payload == b"online"
        ]

    def state(self) -> str:
        """The last word of the status topic."""
        said = [message.payload.decode() for message in self.messages() if self._is(message, "status")]
        return said[-1] if said else ""

    def alerts(self) -> list[dict[str, Any]]:
        """The events, each once: a redelivery has the id of what came before."""
        events = (json.loads(message.payload) for message in self.messages() if self._is(message, "alert/"))
        return list({event["id"]: event for event in events}.values())

    def deliveries(self, id_: str) -> int:
        """How often the alert with that id has come."""
        return sum(
            id_.encode() in message.payload for message in self.messages() if self._is(message, "alert/")
        )

    def _is(self, message: Message, kind: str) -> bool:
        return message.topic.removeprefix(self._root).startswith(kind)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)


def _listens(port: int) -> bool:
    lines = (
        Path("/proc/net/tcp").read_text().splitlines()[1:]
        + Path("/proc/net/tcp6").read_text().splitlines()[1:]
    )
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines)
