"""Which scenarios there are: the files of scenarios/, without the package's own."""

from __future__ import annotations

from pathlib import Path

SCENARIOS = Path(__file__).with_name("scenarios")


def scenario_names(folder: Path = SCENARIOS) -> tuple[str, ...]:
    """Their names, sorted; names that begin with an underscore are shared code."""
    return tuple(sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")))
