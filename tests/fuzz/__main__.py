"""Fuzz the core by hand: ``python -m tests.fuzz [SECONDS] [SEED]``.

With ``atheris`` (``pip install atheris``) and ``--atheris`` as first argument, coverage guides the
search; what follows are libFuzzer's own arguments (a directory for what it finds, ``-max_total_time=60``).
Otherwise real and modelled lists are mutated at random; what fails is written to the current directory.
"""

from __future__ import annotations

import importlib
import random
import sys
import time
from pathlib import Path

from tests.core.recorded import ALL_FORMS
from tests.fuzz.seeds import small_lists
from tests.fuzz.target import check_list, check_monitor, mutated


def run(seconds: float, seed: int, most: int | None = None) -> int:
    """Mutate lists until the time is over, ``most`` of them; returns how many checks failed."""
    choose = random.Random(seed)
    seeds = small_lists() * 8 + [form.path.read_bytes() for _, form in ALL_FORMS]
    until, done, failed = time.monotonic() + seconds, 0, 0
    while time.monotonic() < until and done != most:
        data = mutated(choose.choice(seeds), choose.choice(seeds), choose)
        cuts = [choose.randrange(1 << 30) for _ in range(choose.randrange(6))]
        for check in (check_list, check_monitor):
            try:
                check(data, cuts)
            except Exception as error:
                failed += 1
                path = Path(f"failed-{seed}-{done}")
                path.write_bytes(data)
                sys.stdout.write(f"{check.__name__} {cuts}: {type(error).__name__}: {error}; see {path}\n")
        done += 1
    sys.stdout.write(f"{done} lists, {failed} failed\n")
    return failed


def guided(arguments: list[str]) -> None:
    """Coverage-guided; does not return."""
    atheris = importlib.import_module("atheris")
    for name in [name for name in sys.modules if name.startswith("dmimad.") or name == "tests.fuzz.target"]:
        del sys.modules[name]  # to be imported once more, instrumented
    with atheris.instrument_imports(include=["dmimad.core"]):
        target = importlib.import_module("tests.fuzz.target")

    def one(data: bytes) -> None:
        cuts = [1 + 37 * number for number in data[:3]]
        target.check_list(data, cuts)
        target.check_monitor(data, cuts)
        target.check_baseline(data)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def main() -> int:
    """Returns 1 if anything failed."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--atheris"]:
        guided(arguments[1:])
    seconds = float(arguments[0]) if arguments else 60.0
    seed = int(arguments[1]) if len(arguments) > 1 else int(time.time())
    sys.stdout.write(f"seed {seed}\n")
    return 1 if run(seconds, seed) else 0


if __name__ == "__main__":
    sys.exit(main())
