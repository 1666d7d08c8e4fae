"""The files under `config/`, and the certificates that `docs/security.md` makes, ready for a test."""

from __future__ import annotations

import re
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CONFIG = ROOT / "config"


def commented_in(text: str, *, of: str = "#") -> str:
    """With the settings that are commented out: `#` and no space after it, while prose has one."""
    return re.sub(rf"^(\s*){of}(?=[\w-]|  )", r"\1", text, flags=re.MULTILINE)


def block_with(page: str, word: str) -> str:
    """The indented block of a page that has this word in it."""
    text = (ROOT / page).read_text("utf-8")
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    (found,) = [block for block in blocks if word in block]
    return re.sub(r"^    ", "", found, flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Certificates:
    """A directory with `NAME.crt` and `NAME.key` as the page's commands make them."""

    directory: Path

    def certificate(self, name: str) -> Path:
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def client(self, name: str = "") -> ssl.SSLContext:
        """For a client that trusts the CA, and shows the certificate of `name` if there is one."""
        context = ssl.create_default_context(cafile=self.certificate("ca"))
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python does from 3.13 on
        if name:
            context.load_cert_chain(self.certificate(name), self.key(name))
        return context


def make_certificates(directory: Path, *, more: tuple[str, ...] = ()) -> Certificates:
    """Run the commands of the page, for a broker and hosts called localhost; `more`: further clients."""
    script = block_with("docs/security.md", "openssl req")
    script = re.sub(r"DNS:[\w.-]+", "DNS:localhost", script)
    script += "".join(f"issue {name} clientAuth\n" for name in more)
    subprocess.run(["sh", "-eu"], input=script, text=True, cwd=directory, check=True, capture_output=True)
    return Certificates(directory)
