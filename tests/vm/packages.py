"""Which Debian packages hold the kernels, which of them is the newest, and fetching them with apt.

apt works in a directory of its own with this machine's mirror, keys, proxies and credentials: it verifies the
suite's signature and by it the index; the index's SHA256 of a package is then checked here too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.vm.programs import VmError, run
from tests.vm.sources import Mirror, stanzas

_CONFIGURATION = """\
#clear APT::Update;
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "DIRECTORY/state";
Dir::State::status "DIRECTORY/status";
Dir::Cache "DIRECTORY/cache";
Dir::Cache::pkgcache "packages.bin";
Dir::Etc::sourcelist "DIRECTORY/debian.sources";
Dir::Etc::sourceparts "/dev/null";
"""


@dataclass(frozen=True, slots=True)
class KernelSeries:
    """A kernel of the tests: its suite, and patterns of its packages' names with the group `release`."""

    name: str
    suite: str
    packages: tuple[str, ...]


SERIES = (
    KernelSeries("6.1", "bookworm", (r"linux-image-(?P<release>6\.1\.0-\d+)-amd64-unsigned",)),
    KernelSeries("6.12", "trixie", (r"linux-image-(?P<release>6\.12\.\d+\+deb13(\.\d+)?)-amd64-unsigned",)),
    KernelSeries(
        "7.2",
        "sid",
        tuple(
            rf"linux-{part}-(?P<release>7\.[\d.]+\+deb14(\.\d+)?)-amd64"
            for part in ("binary", "modules", "base")
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Package:
    """A package as the index describes it."""

    name: str
    version: str
    sha256: str
    size_bytes: int


def series(name: str) -> KernelSeries:
    """The series of that name."""
    for one in SERIES:
        if one.name == name:
            return one
    raise VmError(f"unknown kernel {name!r}: one of {', '.join(one.name for one in SERIES)}")


def parse_index(text: str) -> tuple[Package, ...]:
    """The packages of an index, or of what `apt-cache show` prints, without those that have no digest."""
    found = []
    for stanza in stanzas(text):
        name, sha256, size = stanza.get("package", ""), stanza.get("sha256", ""), stanza.get("size", "")
        if name and re.fullmatch("[0-9a-f]{64}", sha256) and size.isdecimal():
            found.append(Package(name, stanza.get("version", ""), sha256, int(size)))
    return tuple(found)


def newest(wanted: KernelSeries, names: Iterable[str]) -> tuple[str, ...]:
    """The names of the newest release's packages; a release that lacks one of them is no candidate."""
    releases: dict[str, dict[str, str]] = {}
    for name in names:
        for pattern in wanted.packages:
            if match := re.fullmatch(pattern, name):
                releases.setdefault(match["release"], {})[pattern] = name
    complete = [release for release, found in releases.items() if len(found) == len(wanted.packages)]
    if not complete:
        raise VmError(
            f"the suite {wanted.suite} has no kernel {wanted.name} (packages like {wanted.packages[0]})"
        )
    found = releases[max(complete, key=_numbers)]
    return tuple(found[pattern] for pattern in wanted.packages)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release))


class Suite:
    """One suite of the mirror, with apt's files about it in `directory`."""

    def __init__(self, directory: Path, mirror: Mirror, name: str) -> None:
        self._directory = directory
        self._mirror = mirror
        self._name = name
        self._configuration = directory / "apt.conf"

    def update(self) -> None:
        """Fetch the suite's index, if there is a newer one."""
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (self._directory / folder).mkdir(parents=True, exist_ok=True)
        (self._directory / "status").touch()
        (self._directory / "debian.sources").write_text(self._mirror.sources(self._name), encoding="utf-8")
        text = _CONFIGURATION.replace("DIRECTORY", str(self._directory))
        self._configuration.write_text(text, encoding="utf-8")
        run(("apt-get", "-c", self._configuration, "-qq", "update"))

    def kernel(self, wanted: KernelSeries) -> tuple[Package, ...]:
        """The packages of its newest kernel of that series."""
        names = newest(wanted, self._cache("pkgnames", "linux-").split())
        found = {
            package.name: package for package in parse_index(self._cache("show", "--no-all-versions", *names))
        }
        if missing := [name for name in names if name not in found]:
            raise VmError(
                f"the index of {self._name} names {missing[0]} without a SHA256: try another mirror"
            )
        return tuple(found[name] for name in names)

    def download(self, package: Package, directory: Path) -> Path:
        """Fetch it into the directory and verify it."""
        before = set(directory.iterdir())
        run(("apt-get", "-c", self._configuration, "-qq", "download", package.name), cwd=directory)
        (path,) = set(directory.iterdir()) - before
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != package.sha256:
            raise VmError(f"{package.name} has SHA256 {digest}, the index says {package.sha256}: not used")
        return path

    def _cache(self, *arguments: str) -> str:
        return run(("apt-cache", "-c", self._configuration, *arguments))
