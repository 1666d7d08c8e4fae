"""The line that `systemctl status` shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmimad.core.status import Refused, Surroundings
from dmimad.status_line import MAX_PROBLEM_CHARS, status_line

FINE = Surroundings(source="auto", source_up=True, lag=0, live_up=True, mqtt_connected=True)


def line(
    around: Surroundings = FINE,
    devices: int = 12,
    firing: dict[str, int] | None = None,
    problem: str = "",
    hanging: tuple[str, ...] = (),
) -> str:
    return status_line(around, devices=devices, firing=firing or {}, problem=problem, hanging=hanging)


def test_all_is_well() -> None:
    assert line() == "following the kernel's list: 12 devices, no alert firing; broker connected, 0 waiting"


def test_alerts_and_numbers() -> None:
    around = replace(FINE, outbox_pending=3, lag=1)
    assert line(around, 1, {"critical": 1, "warning": 2}) == (
        "following the kernel's list, 1 record behind: 1 device, 3 alerts firing (1 critical); "
        "broker connected, 3 waiting"
    )
    assert "1 alert firing;" in line(firing={"info": 1, "critical": 0})


@pytest.mark.parametrize(
    ("around", "beginning"),
    [
        (replace(FINE, store_problem="disk is full"), "CANNOT STORE: disk is full; following the"),
        (replace(FINE, mqtt_connected=False, outbox_pending=7), "broker not connected, 7 waiting; following"),
        (replace(FINE, outbox_dead=1), "1 message given up; following"),
        (replace(FINE, settings_accepted=False), "new settings refused, the former are in force; foll"),
        (replace(FINE, baseline_accepted=False), "baseline refused, the last good one is in force; foll"),
        (
            replace(FINE, refused=[Refused("mqtt", "expired", 0.0), Refused("baseline", "damaged", 0.0)]),
            "files for mqtt refused; following",
        ),
        (replace(FINE, restart_needed=["state"]), "restart needed for new settings; following"),
        (replace(FINE, live_up=False), "live tables not observed; following"),
        (replace(FINE, live_up=None), "following the kernel's list: 12"),
    ],
)
def test_a_problem_comes_first(around: Surroundings, beginning: str) -> None:
    assert line(around).startswith(beginning)


def test_the_gravest_problem_comes_first() -> None:
    around = replace(FINE, source_up=False, store_problem="full", mqtt_connected=False, live_up=False)
    assert line(around, problem="no such file", hanging=("list_state",)) == (
        "list state hangs; CANNOT STORE: full; CANNOT FOLLOW THE LIST: no such file; "
        "broker not connected, 0 waiting; live tables not observed; 12 devices, no alert firing"
    )


def test_before_anything_was_read() -> None:
    around = Surroundings(source="/srv/mirror/list", mqtt_connected=None)
    assert line(around, 0) == "beginning with /srv/mirror/list: 0 devices, no alert firing; no broker set"


def test_the_kernels_list_by_its_path() -> None:
    around = replace(FINE, source="/sys/kernel/security/ima/binary_runtime_measurements")
    assert line(around).startswith("following the kernel's list: ")


def test_a_long_problem_leaves_room_for_the_rest() -> None:
    told = line(problem="x" * 1000)
    assert f"{'x' * (MAX_PROBLEM_CHARS - 1)}…; 12 devices" in told
