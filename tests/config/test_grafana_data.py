"""`config/grafana/`: what a real Prometheus answers to every question of the dashboards.

Each must be understood and have an answer: for real daemons, to which everything happens that the dashboards
are to show, and for hosts that have the metrics of the contract and no others.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.broker import Broker, free_port
from tests.config.dashboards import DASHBOARDS, FLEET, HOST, Asked, asked, chosen, offered, panels, variables
from tests.prometheus import prometheus, until
from tests.service.daemon_process import DEADLINE_SECONDS, DaemonProcess, prepared
from tests.service.host import Host, entry
from tests.service.lists import ascii_records, load_hash

SETTINGS = """\
global:
  scrape_interval: 15s
scrape_configs:
  - job_name: storage
    file_sd_configs:
      - files: [{targets}]
"""
Series = list[dict[str, Any]]


def targets(directory: Path, *addresses: str) -> Path:
    """The file with the targets of Prometheus, which looks at it again when it is another one."""
    file, fresh = directory / "targets.json", directory / "targets.new"
    fresh.write_text(json.dumps([{"targets": list(addresses)}]))
    return fresh.rename(file)


async def value(address: str, expression: str, number: float) -> None:
    """Until Prometheus has that value."""

    def there(found: Any) -> bool:
        return [float(series["value"][1]) for series in found["result"]] == [number]

    await until(address, there, "query", query=expression)


async def answers(address: str, document: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Series]:
    """The answer to each question of a dashboard by its place, as soon as each has one."""
    found: dict[str, Series] = {}
    left = list(asked(document))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DEADLINE_SECONDS):
            while left := await _ask(address, left, values, found):  # noqa: ASYNC110  # nor has HTTP an event
                await asyncio.sleep(0.5)  # between two looks: a rate takes two scrapes
    assert not [question.place for question in left], "no answer"
    return found


async def _ask(
    address: str, questions: list[Asked], values: Mapping[str, str], found: dict[str, Series]
) -> list[Asked]:
    """Put the answers into `found`; returns the questions that have none."""
    for question in questions:
        found[question.place] = await question.answer(address, values)
    return [question for question in questions if not found[question.place]]


def values_at(document: Mapping[str, Any], host: str) -> dict[str, str]:
    """Of the variables, when that host is looked at; with another job that is chosen and has a nasty name."""
    if document is FLEET:
        return chosen(document, job=["storage", "other job (2)"], lookback=["1h"])
    return chosen(document, job=["storage", "other job (2)"], host=[host])


# -- real daemons -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fleet:
    """Addresses: of Prometheus, and of the hosts; see `fleet`."""

    prometheus: str
    troubled: str
    dead: str
    well: str
    gone: str


@pytest.fixture
def broker(mosquitto: str, tmp_path: Path) -> Iterator[Broker]:
    directory = tmp_path / "broker"
    directory.mkdir()
    with Broker(mosquitto, directory) as running:
        yield running


def monitored(directory: Path, broker: Broker) -> tuple[Host, str]:
    """A host, and the address of its metrics, which is the same for each of its daemons."""
    host, port = Host(directory, broker.port, directory.name), free_port()
    host.configure(metrics={"port": port})
    host.write_list(b"")
    return host, f"127.0.0.1:{port}"


async def started(daemon: DaemonProcess) -> None:
    await daemon.start()
    await daemon.ready()


@contextlib.asynccontextmanager
async def fleet(broker: Broker, directory: Path, records: list[bytes]) -> AsyncIterator[Fleet]:
    """Four hosts on which it comes to pass what the dashboards are to show.

    The first restarts, loses its broker, and has its verified image swapped and another table staged; the
    second dies; the third is well, and without devices; the fourth is a target no more.
    """
    hosts = [monitored(directory / f"web-{number}", broker) for number in (1, 2, 3, 4)]
    troubled, at = hosts[0][0], [address for _, address in hosts]
    troubled.approve(
        entry("image-ro", [load_hash(records[527])]), entry("vg0-data", [load_hash(records[486])])
    )
    troubled.write_list(b"".join(records[:500]))
    async with contextlib.AsyncExitStack() as stack:
        daemons = [await stack.enter_async_context(prepared(host.settings)) for host, _ in hosts]
        for daemon in daemons:
            await started(daemon)
        settings = SETTINGS.format(targets=targets(directory, *at))
        address = await stack.enter_async_context(prometheus(directory, settings))
        await value(address, f'dmimad_list_position{{instance="{at[0]}"}}', 500)
        await troubled.settled(500)
        await daemons[0].terminate()
        await value(address, f'up{{instance="{at[0]}"}}', 0)
        await started(daemons[0])
        await value(address, f'dmimad_records_total{{instance="{at[0]}"}}', 0)
        broker.kill()
        await value(address, f'dmimad_mqtt_connected{{instance="{at[0]}"}}', 0)
        # The image is closed, another table is loaded in its place and comes into use, one more is staged.
        for before, after in itertools.pairwise((500, 578, 579, 580, 581, 582)):
            troubled.append(b"".join(records[before:after]))
            await value(address, f'dmimad_list_position{{instance="{at[0]}"}}', after)
        await daemons[1].kill()
        await value(address, f'up{{instance="{at[1]}"}}', 0)
        targets(directory, *at[:3])
        await until(address, lambda found: not found["result"], "query", query=f'up{{instance="{at[3]}"}}')
        yield Fleet(address, *at)


def by(labels: str, series: Series) -> dict[Any, float]:
    """The last value of each series by the texts of these labels."""
    found: dict[Any, float] = {}
    for each in series:
        key = tuple(each["metric"].get(label, "") for label in labels.split())
        _, number = each["value"] if "value" in each else each["values"][-1]
        found[key if len(key) > 1 else key[0]] = float(number)
    return found


def number(series: Series) -> float:
    """The only value there is."""
    ((_, text),) = [each["value"] for each in series]
    return float(text)


async def test_every_question_is_answered(broker: Broker, tmp_path: Path, corpus: Path) -> None:
    """And rightly, where the answer is what somebody looks for at three in the morning."""
    records = ascii_records(corpus / "lvm-6.1")
    async with fleet(broker, tmp_path, records) as scene:
        one = await answers(scene.prometheus, HOST, values_at(HOST, scene.troubled))
        all_of_them = await answers(scene.prometheus, FLEET, values_at(FLEET, ""))
        for document in DASHBOARDS.values():
            values = values_at(document, scene.troubled)
            for variable in variables(document).values():
                if variable["type"] == "query":
                    assert await offered(scene.prometheus, variable, values), variable["name"]
        two = chosen(HOST, job=["storage"], host=[scene.troubled], device=["image-ro", "vg0-data"])
        (slots,) = [each for each in asked(HOST) if each.place.endswith("Slots now / A")]
        of_two = by("device slot", await slots.answer(scene.prometheus, two))
        assert set(of_two) == {("image-ro", "active"), ("vg0-data", "active"), ("vg0-data", "inactive")}
    _check_fleet(scene, records, _short(all_of_them))
    _check_host(records, _short(one))


def _short(found: Mapping[str, Series]) -> dict[str, Series]:
    """By places without the dashboard's title."""
    return {place.partition(" / ")[2]: series for place, series in found.items()}


def _check_fleet(scene: Fleet, records: list[bytes], found: dict[str, Series]) -> None:
    swapped, staged = load_hash(records[579]), load_hash(records[581])
    assert by("instance device slot hash", found["Drift now / A"]) == {
        (scene.troubled, "image-ro", "active", swapped): 1,
        (scene.troubled, "vg0-data", "inactive", staged): 1,
    }
    silent = by("instance why", found["Silent hosts / A"])
    assert set(silent) == {(scene.dead, "does not answer"), (scene.gone, "is no target any more")}
    assert all(milliseconds > 1.7e12 for milliseconds in silent.values())
    numbers = {
        "Slots that drift / A": 2,
        "PCR mismatches / A": 0,
        "Silent / A": 2,
        "Hosts up / A": 2,
        "Hosts up / B": 3,
    }
    assert {place: number(found[place]) for place in numbers} == numbers
    assert by("instance", found["PCR 10 / A"]) == {
        scene.troubled: -1,  # no TPM
        scene.well: -1,
        scene.gone: -1,
        scene.dead: -2,  # silent
    }
    assert by("instance", found["All hosts / B"]) == {scene.troubled: 2, scene.well: 0}
    assert by("instance", found["All hosts / I"])[scene.troubled] > 0  # the outbox


def _check_host(records: list[bytes], found: dict[str, Series]) -> None:
    verity, swapped, staged = (load_hash(records[index])[7:15] for index in (527, 579, 581))
    states = by("place state", found["Tables in the slots / A"])
    assert {
        ("image-ro · active", verity),
        ("image-ro · active", f"DRIFT {swapped}"),
        ("vg0-data · inactive", "empty"),
        ("vg0-data · inactive", f"DRIFT {staged}"),
        ("daemon", "scraped"),
        ("daemon", "silent"),
    } <= states.keys()
    now = by("device slot hash provenance", found["Slots now / A"])
    assert now["image-ro", "active", load_hash(records[579]), "measured"] == 1
    assert now["vg0-data", "active", load_hash(records[486]), "measured"] == 0
    numbers = {"Slots that drift / A": 2, "Broker / A": 0, "List / A": 1}
    assert {place: number(found[place]) for place in numbers} == numbers
    # Each line of health is one series, through the restart too.
    assert {len(series) for place, series in found.items() if place.startswith("Health over time")} == {1}
    # Each is counted once, the first of its code too: the image was staged and in use, the volume is staged.
    counted = {
        each["metric"]["code"]: sum(float(text) for _, text in each["values"])
        for each in found["Findings by code / A"]
    }
    assert (counted["drift.active"], counted["drift.inactive"]) == (1, 2)
    # In the matrix that Grafana makes of them there is one state at each place and time; no time lacks.
    points = [
        (each["metric"]["place"], time)
        for each in found["Tables in the slots / A"]
        for time, _ in each["values"]
    ]
    assert len(set(points)) == len(points)
    assert {time for place, time in points if place == "daemon"} == {time for _, time in points}


# -- the metrics of the contract, and no others -----------------------------------------------

#: Of every daemon; {n} grows with each scrape, {reset} starts anew now and then.
ALWAYS = """\
dmimad_build_info{{version="1.2.3"}} 1
dmimad_records_total {reset}
dmimad_dm_events_total{{event="table_load"}} {n}
dmimad_devices {devices}
dmimad_alerts_firing{{severity="info"}} 0
dmimad_alerts_firing{{severity="warning"}} 2
dmimad_alerts_firing{{severity="critical"}} 1
dmimad_list_position {n}
dmimad_last_read_timestamp_seconds 1796074149.5
dmimad_detection_latency_seconds_bucket{{le="0.1"}} {n}
dmimad_detection_latency_seconds_bucket{{le="+Inf"}} {n}
dmimad_detection_latency_seconds_sum {n}
dmimad_detection_latency_seconds_count {n}
dmimad_outbox_pending 3
dmimad_outbox_dead_total 0
dmimad_mqtt_connected 1
dmimad_config_last_reload_successful 1
dmimad_source_up 1
"""
DEVICES = """\
dmimad_findings_total{{code="drift.active",severity="critical"}} {n}
dmimad_device_drift{{device="a",uuid="",slot="active"}} 1
dmimad_device_drift{{device="a",uuid="",slot="inactive"}} 0
dmimad_device_table_info{{device="a",uuid="",slot="active",hash="sha256:{n:064x}"}} 1
"""
#: Of those with a TPM, and a kernel's list.
SOMETIMES = "dmimad_list_lag_records 0\ndmimad_pcr_verified 1\n"
#: Two devices may share name and uuid for a while.
TWINS = """\
dmimad_device_drift{{device="b",uuid="B",slot="active"}} 1
dmimad_device_drift{{device="b",uuid="B",slot="inactive"}} 1
dmimad_device_table_info{{device="b",uuid="B",slot="active",hash="sha256:1"}} 1
dmimad_device_table_info{{device="b",uuid="B",slot="active",hash="sha256:2"}} 1
"""
#: Of later versions.
MORE = """\
dmimad_device_maintenance{{device="a",uuid=""}} 1
dmimad_device_witness_info{{device="a",uuid="",slot="active",provenance="both"}} 1
dmimad_mqtt_enabled 0
"""
#: What a host has: all of the contract; the least of it; more; two devices of one name; no device at all.
HOSTS = {
    "all": ALWAYS + DEVICES + SOMETIMES,
    "least": ALWAYS + DEVICES,
    "more": ALWAYS + DEVICES + MORE,
    "twins": ALWAYS + DEVICES + TWINS,
    "idle": ALWAYS,
}


@contextlib.asynccontextmanager
async def exposed(text: str) -> AsyncIterator[str]:
    """Address of a target with such metrics."""
    scrapes = itertools.count(1)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        number = next(scrapes)
        devices = text.count("device_drift") // 2
        body = text.format(n=number, reset=number % 5, devices=devices).encode()
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def speaks_of_nothing(text: str) -> bool:
    """Such is what an empty panel says where all is well."""
    return text.startswith(("No ", "Nothing "))


async def test_the_metrics_of_the_contract_are_enough(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        at = {name: await stack.enter_async_context(exposed(text)) for name, text in HOSTS.items()}
        nobody = f"127.0.0.1:{free_port()}"
        settings = SETTINGS.format(targets=targets(tmp_path, nobody, *at.values()))
        address = await stack.enter_async_context(prometheus(tmp_path, settings))
        scraped = "count(count_over_time(up[1m]) >= 6)"  # so that a counter has started anew
        await value(address, scraped, len(at) + 1)
        quiet = {question.place for question in asked(HOST) if question.place.endswith("/ annotation Silent")}
        found = {name: await _answers_but(address, values_at(HOST, at[name])) for name in HOSTS}
        for name in HOSTS.keys() - {"idle"}:
            assert {place for place, series in found[name].items() if not series} == quiet, name
        await answers(address, FLEET, values_at(FLEET, ""))
        dead = await _answers_but(address, values_at(HOST, nobody))
    shown = {name: _short(each) for name, each in found.items()}
    numbers = {name: number(each["Broker / A"]) for name, each in shown.items()}
    assert numbers == {"all": 1, "least": 1, "more": -1, "twins": 1, "idle": 1}  # -1: none is to be used
    assert {name: number(shown[name]["PCR 10 / A"]) for name in ("all", "least")} == {"all": 1, "least": -1}
    for name, provenance, verdict in (("all", "not told", 1), ("more", "both", 3)):
        assert by("device slot provenance", shown[name]["Slots now / A"]) == {
            ("a", "active", provenance): verdict
        }
    assert {value for each in shown.values() for value in by("instance", each["Memory / A"]).values()} == {-1}
    said = {panel["title"]: panel["fieldConfig"]["defaults"]["noValue"] for panel in panels(HOST)}
    empty = {
        place.split(" / ")[1]
        for place, series in found["idle"].items()
        if not series and "annotation" not in place
    }
    assert empty
    assert all(speaks_of_nothing(said[title]) for title in empty), empty
    filled = {place for place, series in dead.items() if series}
    assert {"dmimad: host / Daemon / A", "dmimad: host / annotation Silent"} <= filled
    assert "dmimad: host / Slots that drift / A" not in filled  # nobody knows, and it does not say 0


async def _answers_but(address: str, values: Mapping[str, str]) -> dict[str, Series]:
    """The answers to the host's dashboard, also none; what Prometheus does not understand fails."""
    found: dict[str, Series] = {}
    await _ask(address, list(asked(HOST)), values, found)
    return found
