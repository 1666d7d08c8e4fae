"""What is made from the code shows all of it; that it is committed so is in tests/test_docs.py."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dmimad import cli
from dmimad.adapters.metrics import FAMILIES, LATENCY
from dmimad.core.device import TRANSITIONS, Action, Dialect, Slots, Transition
from dmimad.core.event import EventKind
from dmimad.settings import reference
from scripts.command_line import arguments, parsers
from scripts.reference import made
from scripts.reference.machine import moves, notes, picture, word
from scripts.reference.pictures import STEPS
from scripts.reference.tables import LABELS
from tests.core.kernel import DIALECTS, Kernel, linear
from tests.core.replaying import replay_items

ROOT = Path(__file__).parents[2]
MADE = made()


def test_nothing_is_left_of_what_is_made_no_more() -> None:
    there = [path for folder in ("docs/reference", "docs/images") for path in (ROOT / folder).iterdir()]
    assert {str(path.relative_to(ROOT)) for path in there if path.suffix != ".png"} <= MADE.keys()


def test_every_command_and_option_is_there() -> None:
    page = MADE["docs/reference/commands.md"]
    for parser, _ in parsers(cli.parser()):
        section = page.partition(f"## {parser.prog}\n")[2].partition("\n## ")[0]
        assert section, parser.prog
        for action in arguments(parser):
            for option in action.option_strings:
                assert f"| `{option}" in section, f"{parser.prog} {option}"


def test_every_setting_is_there() -> None:
    page = MADE["docs/reference/settings.md"]
    for row in reference():
        section = page.partition(f"## [{row.section}]\n")[2].partition("\n## ")[0]
        assert f"| `{row.key}` | `{row.default}` |" in section, row


def test_every_metric_is_there_and_its_labels_are_explained() -> None:
    page = MADE["docs/reference/metrics.md"]
    for family in (*FAMILIES, LATENCY):
        assert f"| `{family.name}` | {family.kind} |" in page
        assert set(family.labels) <= LABELS.keys(), "say in LABELS of scripts/reference/tables.py what it is"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_the_picture_of_deduplication_says_happens(dialect: str) -> None:
    """Step by step on the modelled kernel: what is recorded, what the list tells, what is live."""
    tables = {"A": (linear(0),), "B": (linear(4096),)}
    kernel, loaded = Kernel(dialect), []
    hashes: dict[str, bytes | None] = {}
    kernel.create(b"a")
    for done, record, by_list, live in STEPS:
        name = done.removeprefix("load ").removesuffix(", resume")
        before = len(kernel.items)
        kernel.load(b"a", tables[name])
        kernel.resume(b"a")
        assert (len(kernel.items) - before) == (2 if record else 0)
        assert kernel.devices[b"a"].live == tables[live]
        (device,) = replay_items(kernel.items).devices.values()
        assert device.active is not None
        hashes.setdefault(name, device.active.hash)
        loaded.append(name)
        assert device.active.hash == hashes[by_list]
    assert loaded == ["A", "B", "A"]
    assert len(set(hashes.values())) == 2


# -- the state machine ----------------------------------------------------------------------

NAMESPACE = "{http://www.w3.org/2000/svg}"


def words(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{NAMESPACE}text")]


def test_every_move_has_its_arrow_and_every_state_says_what_stays() -> None:
    svg = MADE["docs/images/state-machine.svg"]
    every = moves(TRANSITIONS)
    between = [move for move in every if move.to not in (None, move.source)]
    arrows = [path for path in ElementTree.fromstring(svg).iter(f"{NAMESPACE}path") if path.get("marker-end")]
    assert len(arrows) == len(between) + 2  # the beginning and the end
    said = [label for label in words(svg) if ": " in label and "v1, legacy" not in label]
    labels = [label.split()[0].removesuffix(":") for label in said]
    assert sorted(label for label in labels if label in {"load", "resume", "clear"}) == sorted(
        word(move.event) for move in between
    )
    text = " ".join(words(svg))
    for slots in Slots:
        staying = [word(move.event) for move in every if move.source is slots and move.to is slots]
        assert staying
        found = re.search(rf"\b{slots} active inactive stays: ([\w ,()\N{{NO-BREAK SPACE}}]+)", text)
        assert found
        assert found[1].replace("\N{NO-BREAK SPACE}", " ").startswith(staying[0])


def test_differences_of_the_dialects_are_told() -> None:
    told = [sentence for _, sentence in notes(moves(TRANSITIONS)).values()]
    assert {sentence.partition(" ordered: ")[0] for sentence in told} == {
        f"clear: v1, legacy: {Action.CLEAR_ALIAS.value};",
        f"rename: v1, legacy: {Action.RENAME_ACTIVE.value};",
    }
    text = " ".join(" ".join(words(MADE["docs/images/state-machine.svg"])).split())
    for sentence in told:
        assert sentence in text


def test_another_table_is_another_picture() -> None:
    key = (Slots.STAGED, EventKind.DEVICE_RENAME)
    changed = {**TRANSITIONS, key: Transition(Slots.BOTH, dict.fromkeys(Dialect, Action.KEEP))}
    assert picture(changed) != picture() == MADE["docs/images/state-machine.svg"]


def test_a_picture_that_would_be_wrong_is_not_drawn() -> None:
    kept = {key: value for key, value in TRANSITIONS.items() if key != (Slots.BOTH, EventKind.DEVICE_REMOVE)}
    with pytest.raises(ValueError, match="removal from every state"):
        picture(kept)
