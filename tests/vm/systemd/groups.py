"""Which groups of checks there are, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.vm.systemd.checks import clock, collision, install, rights, state, upgrade, watchdog
from tests.vm.systemd.host import Host

Check = Callable[[Host], None]


@dataclass(frozen=True, slots=True)
class Group:
    """A module of checks: how it begins, its checks in order, and what to do at its end."""

    prepare: Check
    checks: Sequence[Check]
    restore: Check | None


#: The first group installs what the others are about, the last removes it.
GROUPS: Mapping[str, Group] = {
    module.__name__.rpartition(".")[2]: Group(module.prepare, module.CHECKS, getattr(module, "restore", None))
    for module in (install, rights, watchdog, state, collision, clock, upgrade)
}


def check_names() -> tuple[str, ...]:
    """As results name them."""
    return tuple(f"{name}.{check.__name__}" for name, group in GROUPS.items() for check in group.checks)
