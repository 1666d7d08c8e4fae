"""A virtual machine: QEMU in software emulation, a TPM 2 by swtpm, disks, a folder shared with the guest.

KVM is never used: it is not everywhere, and inside another machine it may hang. A machine ends when its
scenarios do (the guest switches itself off), by a kernel bug (`oops=panic`), or by the time limit. If a
scenario goes on after a reboot, it is switched on again, with the same TPM and disks, these in another order.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.vm.image import PROJECT, Image
from tests.vm.programs import VmError, program, run
from tests.vm.report import CONTINUED, Report, parse_results

DEFAULT_TIMEOUT_SECONDS = 2400.0
MEMORY_MIB = 3072
# By their serial numbers; the first is for the scenarios of one boot, which know it as /dev/vda.
DISK_BYTES = {"vm-scratch": 600 << 20, "vm-alpha": 320 << 20, "vm-beta": 128 << 20, "vm-gamma": 64 << 20}
# The disk with the userland, if that is not in the initial RAM disk; always the first.
ROOT_DISK = "vm-root"
MAX_BOOTS = 4
# Both witnesses' ground: device-mapper's critical data is measured, files are not.
COMMAND_LINE = "lsm=integrity,lockdown ima_policy=critical_data"
_ALWAYS = "console=ttyS0 quiet mitigations=off oops=panic panic=-1 rdinit=/vm-init"
_SWTPM_SECONDS = 20.0
# Both CPUs in one thread. With a thread for each, QEMU before 8.1 may go on executing a breakpoint that the
# kernel set while it changed its own code (static keys) and has long taken away: "Oops: int3", two of 80
# boots of 7.2, none of 140 in one thread. It takes no longer where as many machines run as there are CPUs.
ACCELERATOR = "tcg,thread=single"
# What runs in the guest, below the project; importable there under the same names.
GUEST_FOLDERS = ("tests/vm/guest", "tests/vm/scenarios", "tests/vm/systemd")
NAMES = "names.txt"
BOOT = "boot.txt"
# What each boot writes anew: kept in a folder of its own when another boot follows.
BOOT_FILES = ("serial.log", "qemu.log", "swtpm.log", "console.log", "dmesg.txt", "status.txt", "release.txt")
GUEST_FILES = ("tests/__init__.py", "tests/vm/__init__.py")


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a machine is given besides the kernel."""

    command_line: str = COMMAND_LINE
    tpm_banks: tuple[str, ...] = ("sha1", "sha256")  # none: no TPM
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    project: Path = field(default=PROJECT)


def boot(kernel: str, image: Image, scenarios: Sequence[str], out: Path, hardware: Hardware) -> Report:
    """Run the scenarios on a machine of its own; `out` is emptied and filled with all that came of it."""
    with _own(out), tempfile.TemporaryDirectory(prefix="dmimad-vm-") as name:
        _share(out, hardware.project)
        if image.packages is not None:
            shutil.copytree(image.packages, out / "packages")
        machine = Machine(image, Path(name), out, hardware)
        machine.make()
        started, names, number = time.time(), tuple(scenarios), 1
        trouble = machine.boot(number, names)
        # The last that the guest writes before it starts main.py.
        up = _modified(out / "release.txt")
        while not trouble and (names := _going_on(out)):
            if number == MAX_BOOTS:
                trouble = f"after {MAX_BOOTS} boots these want more: {', '.join(names)}"
                break
            _put_away(out, out / f"boot-{number}")
            number += 1
            trouble = machine.boot(number, names)
        return Report(
            kernel=kernel,
            release=_text(out / "release.txt").strip(),
            out=out,
            results=parse_results(_text(out / "results.jsonl")),
            trouble=trouble,
            seconds_to_main=None if up is None else up - started,
            seconds=time.time() - started,
        )


@dataclass(frozen=True, slots=True)
class Machine:
    """What outlives a reboot: disks and TPM in `directory`, results in `out`."""

    image: Image
    directory: Path
    out: Path
    hardware: Hardware

    def make(self) -> None:
        """Empty disks, a TPM that has never been used."""
        for serial, size in DISK_BYTES.items():
            with (self.directory / serial).open("wb") as file:
                file.truncate(size)
        if banks := self.hardware.tpm_banks:
            state = self.directory / "tpm"
            state.mkdir()
            run(("swtpm_setup", "--tpm2", "--tpmstate", state, "--pcr-banks", ",".join(banks), "--overwrite"))

    def boot(self, number: int, scenarios: Sequence[str]) -> str:
        """From switching on to switching off; what was wrong, empty if nothing."""
        (self.out / NAMES).write_text("".join(f"{name}\n" for name in scenarios), encoding="utf-8")
        (self.out / BOOT).write_text(f"{number}\n", encoding="utf-8")
        with _tpm(self.directory, self.out / "swtpm.log", self.hardware.tpm_banks) as tpm:
            command = [*_qemu(self.image, self.out, self.hardware.command_line), *self.disks(number), *tpm]
            trouble = _run_qemu(command, self.out, self.hardware.timeout_seconds)
        return trouble or _trouble(self.out)

    def disks(self, number: int) -> Iterator[str]:
        """QEMU's arguments for the disks; after each boot each has another place, but for the root's."""
        serials = list(DISK_BYTES)
        first = -(number - 1) % len(serials)
        files = {serial: self.directory / serial for serial in serials[first:] + serials[:first]}
        if self.image.disk is not None:
            files = {ROOT_DISK: self.image.disk, **files}
        for serial, file in files.items():
            yield from ("-drive", f"id={serial},file={file},format=raw,if=none,cache=unsafe")
            yield from ("-device", f"virtio-blk-pci,drive={serial},serial={serial}")


@contextmanager
def _own(out: Path) -> Iterator[None]:
    """The folder is ours alone, and empty of what a former machine left."""
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if any(out.iterdir()) and not (out / NAMES).exists():
            raise VmError(f"{out} has files that no machine left there: name another folder or empty it")
        for path in out.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        yield
    except BlockingIOError as error:
        raise VmError(f"{out} is used by another machine: wait for it or name another folder") from error
    finally:
        os.close(descriptor)


def _share(out: Path, project: Path) -> None:
    """Fill the folder that the guest sees as /out."""
    for folder in GUEST_FOLDERS:
        if (project / folder).is_dir():
            shutil.copytree(project / folder, out / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in GUEST_FILES:
        if (project / file).is_file():
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(project / file, out / file)
    for folder in GUEST_FOLDERS:
        (out / Path(folder).name).symlink_to(folder)


@contextmanager
def _tpm(directory: Path, log: Path, banks: Sequence[str]) -> Iterator[Sequence[str]]:
    """A software TPM for one boot; gives QEMU's arguments."""
    if not banks:
        yield ()
        return
    state, socket = directory / "tpm", directory / "tpm.sock"
    socket.unlink(missing_ok=True)
    command = (*_dies_with_us("swtpm"), "socket", "--tpm2", "--terminate", "--tpmstate", f"dir={state}")
    with log.open("wb") as file:
        control = ("--ctrl", f"type=unixio,path={socket}")
        process = subprocess.Popen((*command, *control), stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + _SWTPM_SECONDS
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise VmError(f"swtpm opened no socket in {_SWTPM_SECONDS:.0f} s (status {process.poll()})")
            time.sleep(0.05)
        yield (
            *("-chardev", f"socket,id=tpm,path={socket}"),
            *("-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0"),
        )
    finally:
        process.kill()
        process.wait()


def _dies_with_us(name: str) -> tuple[str, ...]:
    """The beginning of that program's command line: nothing goes on when this process is killed."""
    return program("setpriv"), "--pdeathsig", "KILL", "--", program(name)


def _qemu(image: Image, out: Path, command_line: str) -> list[str]:
    shared = str(out).replace(",", ",,")  # QEMU's way to write a comma inside an option
    return [
        *(*_dies_with_us("qemu-system-x86_64"), "-accel", ACCELERATOR, "-cpu", "max", "-smp", "2"),
        *("-m", f"{MEMORY_MIB}M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-chardev", f"file,id=serial,path={shared}/serial.log", "-serial", "chardev:serial"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", f"{_ALWAYS} {command_line}"),
        *("-virtfs", f"local,path={shared},mount_tag=out,security_model=none,id=out,multidevs=remap"),
    ]


def _run_qemu(command: Sequence[str], out: Path, timeout_seconds: float) -> str:
    """Run the machine to its end; what was wrong with that, empty if nothing."""
    with (out / "qemu.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return f"it was not done after {timeout_seconds:.0f} s and was switched off"
        finally:
            process.kill()
            process.wait()
    if process.returncode != 0:
        words = (out / "qemu.log").read_text(encoding="utf-8", errors="replace").strip()
        return f"QEMU ended with {process.returncode}: {words}"
    return ""


def _trouble(out: Path) -> str:
    """Why a boot did not come to its end, by what it left; empty if it did."""
    serial, status = _text(out / "serial.log"), _text(out / "status.txt").strip()
    if "Kernel panic" in serial:
        panic = next(line for line in serial.splitlines() if "Kernel panic" in line)
        return f"the kernel panicked: {panic.strip()}"
    return "" if status == "0" else f"guest/main.py ended with {status or 'no status'}"


def _going_on(out: Path) -> tuple[str, ...]:
    """The scenarios that want another boot."""
    results = parse_results(_text(out / "results.jsonl"))
    return tuple(name for name, result in results.items() if result.status == CONTINUED)


def _put_away(out: Path, folder: Path) -> None:
    folder.mkdir()
    for name in BOOT_FILES:
        if (out / name).exists():
            (out / name).rename(folder / name)


def _modified(path: Path) -> float | None:
    return path.stat().st_mtime if path.exists() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def environment_timeout(environment: Mapping[str, str]) -> float:
    """The time limit of one machine in seconds: DMIMAD_VM_TIMEOUT, or the default."""
    text = environment.get("DMIMAD_VM_TIMEOUT", "")
    return float(text) if text.replace(".", "", 1).isdecimal() else DEFAULT_TIMEOUT_SECONDS
