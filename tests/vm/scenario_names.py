"""Which scenarios there are: the files of scenarios/, without the package's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SCENARIOS = Path(__file__).with_name("scenarios")
#: Scenarios to be asked for by name: one that measures, for benchmarks/detection.py, and one that takes long
#: and differs from tests/service/test_storm.py by the kernel alone.
BY_NAME = frozenset({"latency", "storm"})
#: Scenarios after which the list no longer tells what others need of it.
LAST = frozenset({"trimming"})


#: Scenarios that go on after a reboot: until then they leave devices, and links of udevd's to them.
LEAVING = frozenset({"approval"})
#: Of kernels that write the list as another does, only what differs between kernels most.
ESSENTIAL: Mapping[str, frozenset[str]] = {"6.12": frozenset({"attacks", "lvm", "random", "systematic"})}


def scenarios_to_pass(kernel: str) -> tuple[str, ...]:
    """Those that `make test-vm` runs on this kernel."""
    names = (name for name in scenario_names() if name not in BY_NAME)
    return tuple(name for name in names if name in ESSENTIAL.get(kernel, {name}))


def scenario_names(folder: Path = SCENARIOS) -> tuple[str, ...]:
    """Their names in the order to run them; names that begin with an underscore are shared code."""
    names = (path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    return tuple(sorted(names, key=lambda name: (name in LAST, name in LEAVING, name)))
