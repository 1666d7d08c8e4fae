"""What ``/proc``, ``/sys`` and ``/boot`` say about the running kernel, and about a daemon that runs on it.

Source: ``security/integrity/ima/ima_fs.c`` (who may read the policy), ``fs/locks.c`` (``/proc/locks``),
proc(5).  Everything is read under an injected root directory; nothing is opened for writing.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from pathlib import Path

from dmimad.adapters.store import LOCK_NAME
from dmimad.core.errors import AdapterError
from dmimad.doctor.facts import DaemonFacts, KernelFacts, Trouble

SECURITYFS = Path("sys/kernel/security")
IMA = SECURITYFS / "integrity/ima"
MAX_CONFIG_BYTES = 4 << 20
MAX_POLICY_BYTES = 1 << 20
MAX_TEXT_BYTES = 64 << 10
MAX_LOCKS_BYTES = 4 << 20
_OPTION = re.compile(rb"^(CONFIG_(?:IMA|INTEGRITY|DM)[A-Z0-9_]*)=(.{1,100})$", re.MULTILINE)
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")
#: proc_locks(5): FLOCK ADVISORY WRITE pid major:minor:inode start end
_FLOCK = re.compile(rb"\d+: FLOCK +\S+ +\S+ +(\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) ")
_LISTS = "_runtime_measurements"


def read_limited(path: Path, limit: int) -> bytes:
    """At most ``limit`` bytes of a regular file; raises OSError.  Does not wait for what is none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(limit) or b""


def trouble_of(error: OSError, where: Path | str) -> Trouble:
    """An operating system's refusal as a record."""
    return Trouble((error.strerror or type(error).__name__).lower(), str(where), error.errno or 0)


def trouble_told(error: AdapterError) -> Trouble:
    """What an adapter could not do as a record."""
    return Trouble(error.what, error.where, errno_behind(error), error.remedy)


def errno_behind(error: BaseException) -> int:
    """The operating system's reason for an error that was raised from it; 0 if it gave none."""
    cause = error.__cause__
    return (cause.errno or 0) if isinstance(cause, OSError) else 0


def look_at_kernel(root: Path) -> KernelFacts:
    """The running kernel."""
    release = _text(root / "proc/sys/kernel/osrelease") or ""
    match = _VERSION.match(release)
    options, file, looked = _options(root, release)
    policy, trouble = _policy(root)
    devices = _text(root / "proc/devices")
    return KernelFacts(
        release=release or "unknown",
        version=None if match is None else (int(match[1]), int(match[2])),
        command_line=_text(root / "proc/cmdline"),
        options=options,
        options_file=file,
        options_looked=looked,
        policy=policy,
        policy_trouble=trouble,
        device_mapper=None if devices is None else " device-mapper\n" in devices + "\n",
    )


def _text(path: Path) -> str | None:
    try:
        return read_limited(path, MAX_TEXT_BYTES).decode("utf-8", "backslashreplace").strip()
    except OSError:
        return None


def _options(root: Path, release: str) -> tuple[tuple[tuple[str, str], ...], str, tuple[str, ...]]:
    """The build configuration, from the first place that has it."""
    places = [Path("proc/config.gz")]
    if release and "/" not in release:
        places += [Path(f"boot/config-{release}"), Path(f"lib/modules/{release}/config")]
    looked = tuple(f"/{place}" for place in places)
    for place in places:
        with contextlib.suppress(OSError, zlib.error):
            text = read_limited(root / place, MAX_CONFIG_BYTES)
            if place.suffix == ".gz":
                text = zlib.decompressobj(31).decompress(text, MAX_CONFIG_BYTES)
            found = tuple(
                (name.decode(), value.decode("ascii", "backslashreplace"))
                for name, value in _OPTION.findall(text)
            )
            if text.strip():
                return found, f"/{place}", looked
    return (), "", looked


def _policy(root: Path) -> tuple[tuple[str, ...] | None, Trouble | None]:
    path = root / IMA / "policy"
    try:
        text = read_limited(path, MAX_POLICY_BYTES).decode("utf-8", "backslashreplace")
    except OSError as error:
        return None, trouble_of(error, path)
    rules = (" ".join(line.split()) for line in text.splitlines())
    return tuple(rule for rule in rules if rule and not rule.startswith("#")), None


def look_for_daemon(root: Path, directory: Path) -> DaemonFacts:
    """Who holds the state directory's lock, without touching it."""
    try:
        lock = (directory / LOCK_NAME).stat()
    except FileNotFoundError:
        return DaemonFacts(False)
    except OSError:
        return DaemonFacts(None)
    try:
        locks = read_limited(root / "proc/locks", MAX_LOCKS_BYTES)
    except OSError:
        return DaemonFacts(None)
    for pid, major, minor, inode in _FLOCK.findall(locks):
        if int(inode) != lock.st_ino:
            continue
        device = os.makedev(int(major, 16), int(minor, 16))
        # The device in there is the superblock's, which is not what stat tells on btrfs and overlayfs.
        if device == lock.st_dev or _is_ours(root, int(pid)):
            return DaemonFacts(True, int(pid), _holds_list(root, int(pid)))
    return DaemonFacts(False)


def _is_ours(root: Path, pid: int) -> bool:
    return "dmimad" in (_text(root / f"proc/{pid}/cmdline") or "")


def _holds_list(root: Path, pid: int) -> bool | None:
    try:
        with os.scandir(root / f"proc/{pid}/fd") as entries:
            descriptors = [entry.path for entry in entries]
    except OSError:
        return None
    targets = []
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # closed meanwhile
            targets.append(str(Path(descriptor).readlink()))
    return any(_LISTS in Path(target).name for target in targets)
