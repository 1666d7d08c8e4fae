"""The machines as a fixture: each boots once, beside the others, with the selected scenarios or checks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.vm.cache import Cache, cache_directory
from tests.vm.disk import prepare_disk
from tests.vm.guest.guest import REPORT
from tests.vm.image import PROJECT, prepare
from tests.vm.machine import Hardware, boot, environment_timeout
from tests.vm.programs import VmError, unfit
from tests.vm.report import Report, summary
from tests.vm.scenario_names import scenario_names
from tests.vm.sources import find_mirror
from tests.vm.systemd.groups import check_names
from tests.vm.userland import RELEASES

OUT = PROJECT / "build/vm"
RELEASE_NAMES = frozenset(one.name for one in RELEASES)
_FUTURES = pytest.StashKey[dict[str, Future[Report]]]()


class Machines:
    """The machines of this session; each runs until its scenarios are done, whoever waits for it."""

    def __init__(self, futures: dict[str, Future[Report]]) -> None:
        self._futures = futures

    def report(self, machine: str) -> Report:
        """What came out of that machine; waits for it, and fails the test if there is nothing."""
        try:
            return self._futures[machine].result()
        except VmError as error:
            pytest.fail(f"{machine}: {error}", pytrace=False)


@pytest.fixture(scope="session")
def machines(request: pytest.FixtureRequest) -> Iterator[Machines]:
    """The machines for the selected tests, all started."""
    if reason := unfit():
        pytest.fail(reason, pytrace=False)
    wanted = _selected(request.session.items)
    futures = request.config.stash.setdefault(_FUTURES, {})
    capture = request.config.pluginmanager.getplugin("capturemanager")
    at_once = min(len(wanted), len(os.sched_getaffinity(0)))
    # The pool is left first: it waits for the machines, whose images are in the folder.
    with tempfile.TemporaryDirectory(prefix="dmimad-vm-") as scratch, ThreadPoolExecutor(at_once) as pool:
        # What takes minutes is said when it begins.
        with capture.global_and_fixture_disabled():
            _say("preparing")
            for machine, names in wanted.items():
                futures[machine] = _start(pool, machine, names, Path(scratch) / machine)
        yield Machines(futures)


def _start(pool: ThreadPoolExecutor, machine: str, names: list[str], scratch: Path) -> Future[Report]:
    make = prepare_disk if machine in RELEASE_NAMES else prepare
    try:
        image = make(machine, scratch, Cache(cache_directory(os.environ), _say), find_mirror)
    except VmError as error:
        failed: Future[Report] = Future()
        failed.set_exception(error)
        return failed
    _say(f"{machine}: {len(names)} scenarios, results in {OUT / machine}")
    hardware = Hardware(timeout_seconds=environment_timeout(os.environ))
    return pool.submit(boot, machine, image, names, OUT / machine, hardware)


def _selected(items: list[pytest.Item]) -> dict[str, list[str]]:
    """The selected tests' machines with their scenarios: all of them where only the machine is tested."""
    selected: dict[str, list[str]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and "machines" in item.fixturenames:
            names = selected.setdefault(str(item.callspec.params["machine"]), [])
            if "scenario" in item.callspec.params:
                names.append(str(item.callspec.params["scenario"]))
    return {
        machine: names or list(check_names() if machine in RELEASE_NAMES else scenario_names())
        for machine, names in selected.items()
    }


def _say(text: str) -> None:
    os.write(1, f"vm: {text}\n".encode())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A line per machine, and what its scenarios have to tell people."""
    futures = [future for future in config.stash.get(_FUTURES, {}).values() if future.done()]
    reports = [future.result() for future in futures if not future.exception()]
    if reports:
        terminalreporter.section("machines")
        terminalreporter.write_line(summary(reports))
        for path in [path for report in reports for path in sorted(report.out.rglob(REPORT))]:
            terminalreporter.section(str(path.parent.relative_to(OUT)), sep="-")
            terminalreporter.write_line(path.read_text(encoding="utf-8"))
