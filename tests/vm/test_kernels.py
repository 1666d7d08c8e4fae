"""Each scenario on each kernel: `make test-vm`; a part of it with e.g. ARGS="-k 7.2" or ARGS="-k random".

Skipped unless DMIMAD_VM is set, and where no machine can be made, unless DMIMAD_REQUIRE_PROGRAMS is set (CI).
"""

from __future__ import annotations

import os

import pytest

from tests.vm.conftest import Machines
from tests.vm.packages import SERIES
from tests.vm.programs import unfit
from tests.vm.scenario_names import scenarios_to_pass

if not os.environ.get("DMIMAD_VM"):
    pytest.skip("real kernels take minutes: make test-vm", allow_module_level=True)
if not os.environ.get("DMIMAD_REQUIRE_PROGRAMS") and (reason := unfit()):
    pytest.skip(f"no machine can be made here: {reason}", allow_module_level=True)

KERNELS = tuple(one.name for one in SERIES)


@pytest.mark.parametrize(
    ("machine", "scenario"),
    [
        pytest.param(kernel, scenario, id=f"{kernel}-{scenario}")
        for kernel in KERNELS
        for scenario in scenarios_to_pass(kernel)
    ],
)
def test_scenario(machines: Machines, machine: str, scenario: str) -> None:
    report = machines.report(machine)
    result = report.results.get(scenario)
    if result is not None and result.status == "skipped":
        pytest.skip(f"{machine}: {result.message}")
    if result is None or result.status != "passed":
        pytest.fail(report.explain(scenario), pytrace=False)


@pytest.mark.parametrize("machine", KERNELS)
def test_machine_came_to_its_end(machines: Machines, machine: str) -> None:
    """Also after the last scenario: no panic, no hang, no error in what runs the scenarios."""
    report = machines.report(machine)
    if report.trouble:
        pytest.fail(f"kernel {machine}: {report.trouble}; everything is in {report.out}", pytrace=False)
    assert report.release.startswith(machine.split(".", maxsplit=1)[0])
