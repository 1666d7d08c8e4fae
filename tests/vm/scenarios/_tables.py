"""Tables for several scenarios, on the RAM disks the machine has; every one fits into 16 MiB."""

from __future__ import annotations

ROOT_DIGEST = "8343d35bc52ea5120809e62c13c937fa1f02d95d4da2ab577666907a4b336661"
OTHER_DIGEST = "77754fd80b128861951360525841b3d929c89877b2c4dc3db002ad4f1c9f62a0"
SALT = "abababababababababababababababababababab"
RAM_DISKS = 8


def ram(disk: int) -> str:
    return f"/dev/ram{disk % RAM_DISKS}"


def linear(disk: int, offset: int = 0, length: int = 8) -> str:
    return f"0 {length} linear {ram(disk)} {offset}"


def many(targets: int, disk: int, offset: int = 0) -> str:
    """So many linear targets of 8 sectors; from 37 on their text needs more than one record."""
    return "\n".join(f"{8 * index} 8 linear {ram(disk)} {offset + 8 * index}" for index in range(targets))


def striped(disk: int, offset: int = 0) -> str:
    return f"0 1024 striped 2 128 {ram(disk)} {offset} {ram(disk + 1)} {offset}"


def mixed(disk: int) -> str:
    """Targets with and without a text of their own."""
    return f"0 8 zero\n8 8 linear {ram(disk)} 0\n16 8 error\n24 8 zero"


def crypt(disk: int, offset: int = 0) -> str:
    key = "0123456789abcdef" * 4
    return f"0 2048 crypt aes-xts-plain64 {key} 0 {ram(disk)} {offset} 1 allow_discards"


def verity(data: int, hashes: int, digest: str = ROOT_DIGEST, options: str = "") -> str:
    """The kernel looks at no block while it loads this."""
    shape = f"{ram(data)} {ram(hashes)} 4096 4096 1024 1 sha256"
    return f"0 8192 verity 1 {shape} {digest} {SALT} {options}".rstrip()


def mirror(first: int, second: int) -> str:
    return f"0 2048 mirror core 2 64 nosync 2 {ram(first)} 0 {ram(second)} 0 1 handle_errors"


def snapshot(origin: int, store: int) -> str:
    return f"0 2048 snapshot {ram(origin)} {ram(store)} P 8"
