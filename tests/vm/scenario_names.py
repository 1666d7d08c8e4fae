"""Which scenarios there are: the files of scenarios/, without the package's own."""

from __future__ import annotations

from pathlib import Path

SCENARIOS = Path(__file__).with_name("scenarios")
#: Scenarios to be asked for by name: one that measures, for benchmarks/detection.py, and one that takes long
#: and differs from tests/service/test_storm.py by the kernel alone.
BY_NAME = frozenset({"latency", "storm"})
#: Scenarios after which the list no longer tells what others need of it.
LAST = frozenset({"trimming"})


def scenarios_to_pass() -> tuple[str, ...]:
    """Those that `make test-vm` runs."""
    return tuple(name for name in scenario_names() if name not in BY_NAME)


def scenario_names(folder: Path = SCENARIOS) -> tuple[str, ...]:
    """Their names in the order to run them; names that begin with an underscore are shared code."""
    names = (path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    return tuple(sorted(names, key=lambda name: (name in LAST, name)))
