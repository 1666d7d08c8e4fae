"""Hints, proofs and contradictions: which dialect a list is read in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmimad.core.device import Dialect
from dmimad.core.dialect import DialectEvidence
from dmimad.core.errors import MalformedError
from tests.core.histories import BOUNDED
from tests.core.recorded import LISTS, items

V1, LEGACY, ORDERED = Dialect.V1, Dialect.LEGACY, Dialect.ORDERED


def evidence(
    version: bytes | None = None,
    *,
    first_form: bool = False,
    kernel: bytes | None = None,
    forced: Dialect | None = None,
) -> DialectEvidence:
    """What speaks for a dialect after a ``kernel_version`` record and a dm record."""
    made = DialectEvidence(forced)
    if kernel is not None:
        made.see_kernel(kernel)
    if version is not None:
        made.see_version(version, first_form=first_form)
    return made


@pytest.mark.parametrize(
    ("version", "kernel", "expected"),
    [
        (None, None, ORDERED),
        (None, b"6.1.0-50-amd64", ORDERED),
        (b"4.45.0", None, LEGACY),
        (b"4.47.0", b"6.1.0-50-amd64", LEGACY),
        (b"4.47.0", b"7.2.13", LEGACY),
        (b"4.49.9", None, LEGACY),
        (b"4.50.0", None, ORDERED),
        (b"4.50.0", b"6.16.3", LEGACY),
        (b"4.50.0", b"7.1.9", LEGACY),
        (b"4.50.0", b"7.2.13+deb14-amd64", ORDERED),
        (b"4.50.0", b"10.0.0", ORDERED),
        (b"4.50.0", b"unknown", ORDERED),
        (b"4.51.0", b"6.12.0", ORDERED),
        (b"5.0.0", None, ORDERED),
        (b"3.99.0", None, LEGACY),
        (b"", None, ORDERED),
        (b"...", b"6.1.0", ORDERED),
    ],
)
def test_hints(version: bytes | None, kernel: bytes | None, expected: Dialect) -> None:
    made = evidence(version, kernel=kernel)
    assert (made.dialect, made.proven, made.contradiction) == (expected, None, "")


def test_event_names_settle_the_first_form() -> None:
    made = evidence(b"", first_form=True, kernel=b"7.2.0")
    assert (made.dialect, made.proven) == (V1, None)
    made.prove(LEGACY, "a record of the older ones")
    assert (made.dialect, made.proven, made.contradiction) == (V1, LEGACY, "")
    made.prove(ORDERED, "a record of the newer one")
    assert (made.dialect, made.proven) == (V1, LEGACY)
    assert made.contradiction == "a record of the newer one, against a record of the older ones"


def test_the_first_form_alone_is_against_the_newer_one() -> None:
    made = evidence(b"", first_form=True)
    made.prove(ORDERED, "a record of the newer one")
    assert (made.dialect, made.proven) == (V1, None)
    assert made.contradiction == "a record of the newer one, against v1"


@pytest.mark.parametrize(("proof", "hint"), [(LEGACY, b"4.50.0"), (ORDERED, b"4.47.0")])
def test_a_proof_beats_hints(proof: Dialect, hint: bytes) -> None:
    made = evidence(hint)
    assert made.dialect is not proof
    made.prove(proof, "this record")
    assert (made.dialect, made.proven, made.contradiction) == (proof, proof, "")
    made.see_kernel(b"6.16.0")
    made.see_version(b"4.50.0", first_form=False)
    assert (made.dialect, made.contradiction) == (proof, "")


def test_two_proofs_contradict_each_other_once() -> None:
    made = evidence(b"4.50.0")
    made.prove(ORDERED, "one")
    made.prove(ORDERED, "one again")
    assert made.contradiction == ""
    made.prove(LEGACY, "another")
    assert made.contradiction == "another, against one"
    made.contradiction = ""  # as a reader does who has reported it
    made.prove(LEGACY, "a third")
    made.see_version(b"", first_form=True)
    assert made.contradiction == ""
    assert made.proven is ORDERED


def test_both_forms_of_event_names_in_one_list() -> None:
    made = evidence(b"4.47.0")
    made.see_version(b"4.47.0", first_form=False)
    assert made.contradiction == ""
    made.see_version(b"", first_form=True)
    assert made.contradiction == "event names with and without dm_"
    assert made.dialect is V1


@pytest.mark.parametrize("forced", Dialect)
@pytest.mark.parametrize("first_form", [False, True])
def test_a_forced_dialect_stays(forced: Dialect, *, first_form: bool) -> None:
    made = evidence(b"4.47.0", first_form=first_form, kernel=b"6.1.0", forced=forced)
    assert made.dialect is forced
    right = (forced is V1) is first_form
    assert made.contradiction == ("" if right else f"event names that {forced.value} does not use")


@pytest.mark.parametrize("forced", Dialect)
@pytest.mark.parametrize("proof", [LEGACY, ORDERED])
def test_proofs_against_a_forced_dialect(forced: Dialect, proof: Dialect) -> None:
    made = evidence(b"4.50.0", first_form=forced is V1, forced=forced)
    made.prove(proof, "a record")
    fits = (forced is ORDERED) is (proof is ORDERED)
    assert made.dialect is forced
    assert made.proven is (proof if fits else None)
    assert made.contradiction == ("" if fits else f"a record, against {forced.value}")


def test_another_kernel_begins_anew() -> None:
    made = evidence(b"4.47.0", kernel=b"6.1.0")
    made.prove(LEGACY, "a record")
    made.new_kernel()
    assert (made.dialect, made.proven) == (ORDERED, None)
    made.see_version(b"", first_form=True)
    assert (made.dialect, made.contradiction) == (V1, "")
    made.new_kernel()
    made.see_version(b"4.50.0", first_form=False)
    made.prove(ORDERED, "a record")
    assert (made.dialect, made.contradiction) == (ORDERED, "")


def test_another_kernel_may_be_contradicted_again() -> None:
    made = evidence(b"4.50.0")
    made.prove(ORDERED, "one")
    made.prove(LEGACY, "another")
    made.new_kernel()
    made.contradiction = ""
    made.prove(LEGACY, "one")
    made.prove(ORDERED, "another")
    assert made.contradiction == "another, against one"


# -- stored --------------------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(st.just("version"), st.sampled_from([b"", b"4.47.0", b"4.50.0", b"x\xff"]), st.booleans()),
    st.tuples(
        st.just("kernel"), st.sampled_from([b"6.1.0-50-amd64", b"7.2.13", b"?", b"6.16"]), st.just(False)
    ),
    st.tuples(st.just("prove"), st.sampled_from([b"legacy", b"ordered"]), st.just(False)),
    st.tuples(st.just("new kernel"), st.just(b""), st.just(False)),
)


def take(made: DialectEvidence, step: tuple[str, bytes, bool]) -> None:
    """One thing seen in a list; a contradiction is reported, which clears it."""
    made.contradiction = ""
    verb, value, first_form = step
    if verb == "version":
        made.see_version(value, first_form=first_form)
    elif verb == "kernel":
        made.see_kernel(value)
    elif verb == "prove":
        made.prove(Dialect(value.decode()), "a record")
    else:
        made.new_kernel()


@BOUNDED
@given(st.sampled_from([None, *Dialect]), st.lists(STEPS), st.lists(STEPS))
def test_stored_and_restored(
    forced: Dialect | None, before: list[tuple[str, bytes, bool]], after: list[tuple[str, bytes, bool]]
) -> None:
    """A process that goes on from a document says what one that never stopped would."""
    made = DialectEvidence(forced)
    for step in before:
        take(made, step)
    made.contradiction = ""
    restored = DialectEvidence(forced)
    restored.restore(json.loads(json.dumps(made.document())))
    assert restored.document() == made.document()
    assert (restored.dialect, restored.proven, restored.contradiction) == (made.dialect, made.proven, "")
    for step in after:
        take(made, step)
        take(restored, step)
        now = (restored.dialect, restored.proven, restored.contradiction)
        assert now == (made.dialect, made.proven, made.contradiction)


def test_the_document() -> None:
    made = evidence(b"4.50.\xff", kernel=b"7.2.13")
    made.prove(ORDERED, "this")
    assert made.document() == {
        "kernel": [7, 2],
        "version": "4.50.\xff",
        "first_form": False,
        "proven": "ordered",
        "proof": "this",
        "contradicted": False,
    }


@pytest.mark.parametrize(
    "document",
    [
        {"kernel": [6]},
        {"kernel": "6.1"},
        {"kernel": ["6", "1"]},
        {"version": 4},
        {"version": "4.\u20ac"},
        {"proven": "other"},
    ],
)
def test_damaged_documents(document: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        DialectEvidence().restore(document)


def test_an_empty_document_is_no_evidence() -> None:
    made = DialectEvidence()
    made.restore({})
    assert made.document() == DialectEvidence().document()
    assert made.dialect is ORDERED


@pytest.mark.parametrize("name", LISTS)
def test_hints_of_recorded_lists(name: str) -> None:
    """Kernel version and dm version of real kernels lead to the right dialect before any proof."""
    made = DialectEvidence()
    for item in items(name):
        if item.event == "kernel_version":
            made.see_kernel(item.text)
        elif item.is_dm:
            version = item.text.partition(b";")[0].removeprefix(b"dm_version=")
            made.see_version(
                version if item.text.startswith(b"dm_version=") else b"", first_form=item.event[:3] != "dm_"
            )
            assert made.dialect.value == LISTS[name][0]
    assert made.contradiction == ""
