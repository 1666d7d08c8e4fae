"""What steps do, as data: each function returns an action on the guest.

Names are bytes or text (UTF-8); tables are as for dmsetup, with ``@other`` for the number of the
device ``other``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.vm.guest.guest import Guest

Action = Callable[["Guest"], None]
Name = str | bytes

READ_ONLY_TYPES = ("verity",)
"""Targets that the kernel takes for read-only devices only."""


def raw(name: Name) -> bytes:
    return name.encode() if isinstance(name, str) else name


def create(name: Name, table: str, uuid: Name = b"") -> Action:
    """Create, load and resume, as ``dmsetup create``; nothing is left if the kernel refuses the table."""

    def act(guest: Guest) -> None:
        guest.dm.create(raw(name), raw(uuid))
        try:
            guest.dm.load(raw(name), table, read_only=_read_only(table))
            guest.dm.resume(raw(name))
        except OSError:
            guest.dm.remove(raw(name))
            raise

    return act


def create_empty(name: Name, uuid: Name = b"") -> Action:
    return lambda guest: _done(guest.dm.create(raw(name), raw(uuid)))


def load(name: Name, table: str) -> Action:
    return lambda guest: guest.dm.load(raw(name), table, read_only=_read_only(table))


def resume(name: Name) -> Action:
    return lambda guest: guest.dm.resume(raw(name))


def swap(name: Name, table: str) -> Action:
    """Load and resume."""
    return together(load(name, table), resume(name))


def suspend(name: Name) -> Action:
    return lambda guest: guest.dm.suspend(raw(name))


def clear(name: Name) -> Action:
    return lambda guest: guest.dm.clear(raw(name))


def rename(name: Name, new: Name) -> Action:
    return lambda guest: guest.dm.rename(raw(name), raw(new))


def set_uuid(name: Name, uuid: Name) -> Action:
    return lambda guest: guest.dm.set_uuid(raw(name), raw(uuid))


def message(name: Name, text: str) -> Action:
    return lambda guest: guest.dm.message(raw(name), text)


def remove(name: Name) -> Action:
    return lambda guest: guest.dm.remove(raw(name))


def remove_all() -> Action:
    return lambda guest: guest.remove_all()


def shell(command: str) -> Action:
    """A command line for the shell."""
    return lambda guest: _done(guest.shell(command))


def together(*actions: Action) -> Action:
    """Several actions as one step: the daemon is asked only afterwards."""

    def act(guest: Guest) -> None:
        for action in actions:
            action(guest)

    return act


def _read_only(table: str) -> bool:
    return any(f" {type_} " in table for type_ in READ_ONLY_TYPES)


def _done(_: object) -> None:
    return None
