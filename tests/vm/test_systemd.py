"""The package under the real systemd of each Debian: `make test-vm ARGS="-k systemd"`; one of them with e.g.
ARGS="-k debian12", and some checks with ARGS="-k 'systemd and watchdog'".

Skipped unless DMIMAD_VM is set, and where no machine can be made, unless DMIMAD_REQUIRE_PROGRAMS is set (CI).
"""

from __future__ import annotations

import os

import pytest

from tests.vm.conftest import Machines
from tests.vm.programs import unfit
from tests.vm.report import last_lines
from tests.vm.systemd.groups import check_names
from tests.vm.userland import RELEASES

if not os.environ.get("DMIMAD_VM"):
    pytest.skip("machines take minutes: make test-vm", allow_module_level=True)
if not os.environ.get("DMIMAD_REQUIRE_PROGRAMS") and (reason := unfit()):
    pytest.skip(f"no machine can be made here: {reason}", allow_module_level=True)

NAMES = tuple(one.name for one in RELEASES)


@pytest.mark.parametrize(
    ("machine", "scenario"),
    [pytest.param(name, check, id=f"{name}-{check}") for name in NAMES for check in check_names()],
)
def test_check(machines: Machines, machine: str, scenario: str) -> None:
    report = machines.report(machine)
    result = report.results.get(scenario)
    if result is None:
        pytest.fail(f"no result: {report.trouble or 'the machine wrote none'}", pytrace=False)
    if result.status != "passed":
        pytest.fail(report.explain(scenario), pytrace=False)


@pytest.mark.parametrize("machine", NAMES)
def test_systemd_machine_came_to_its_end(machines: Machines, machine: str) -> None:
    report = machines.report(machine)
    if report.trouble:
        text = f"{machine}: {report.trouble}; everything is in {report.out}"
        pytest.fail("\n".join((text, last_lines(report.out / "serial.log"))), pytrace=False)
