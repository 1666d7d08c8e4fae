"""Texts as HTML: everything in a name can be seen, and nothing of it acts."""

from __future__ import annotations

import re

import pytest

from dmimad.page.texts import MAX_CHARS, counted, moment_tag, plain, seconds_of, shown, span, told, utc
from tests.page.documents import HOSTILE

TAGS = re.compile(r'<bdi(?: dir="ltr")?>|</bdi>|<span class="escape">|</span>')


def escapes(html: str) -> list[str]:
    return re.findall(r'<span class="escape">([^<]*)</span>', html)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_is_markup_or_invisible(name: str) -> None:
    for html in (str(shown(name)), str(told(name))):
        left = TAGS.sub("", html)
        assert "<" not in left
        assert ">" not in left
        assert '"' not in left
        assert left.isprintable()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vg0-root", "<bdi>vg0-root</bdi>"),
        ("<b>&\"'", "<bdi>&lt;b&gt;&amp;&#34;&#39;</bdi>"),
        ("a\u202eb", '<bdi>a<span class="escape">\\u202e</span>b</bdi>'),
        ("a\\u202eb", "<bdi>a\\u202eb</bdi>"),
        ("\x00", '<bdi><span class="escape">\\x00</span></bdi>'),
        ("\U000e0001", '<bdi><span class="escape">\\U000e0001</span></bdi>'),
        (" a  b", '<bdi><span class="escape">␣</span>a <span class="escape">␣</span>b</bdi>'),
        ("", "<bdi></bdi>"),
        ("é\u0301\u0308", "<bdi>é\u0301\u0308</bdi>"),
    ],
)
def test_what_is_shown(text: str, expected: str) -> None:
    assert str(shown(text)) == expected


def test_accents_and_blanks_by_the_dozen_are_counted() -> None:
    assert escapes(str(shown("a" + "\u0301" * 60))) == ["\\u0301×58"]
    assert escapes(str(shown("\u200b" * 3))) == ["\\u200b"] * 3
    assert escapes(str(shown("\u200b" * 4))) == ["\\u200b×4"]


def test_a_long_text_is_cut() -> None:
    assert str(shown("x" * (MAX_CHARS + 1))) == f"<bdi>{'x' * MAX_CHARS}…</bdi>"
    assert str(shown("x" * MAX_CHARS)) == f"<bdi>{'x' * MAX_CHARS}</bdi>"


def test_a_message_keeps_its_direction() -> None:
    assert str(told("שלום runs")) == '<bdi dir="ltr">שלום runs</bdi>'


def test_where_there_is_only_text() -> None:
    assert plain("a\u202e<b>\n") == "a\\u202e<b>\\x0a"


def test_times() -> None:
    assert utc("2026-11-30T03:12:09.512Z") == "2026-11-30 03:12:09 UTC"
    assert seconds_of("2026-11-30T03:12:09.500Z") == 1796008329.5
    assert (seconds_of(None), seconds_of("soon"), utc(7)) == (None, None, "")
    assert str(moment_tag("2026-11-30T03:12:09.512Z")) == (
        '<time datetime="2026-11-30T03:12:09.512Z" data-age>2026-11-30 03:12:09 UTC</time>'
    )
    assert str(moment_tag(None)) == "—"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0004, "0 ms"),
        (0.372, "372 ms"),
        (1.0, "1 s"),
        (119.0, "1 min"),
        (7200.0, "2 h"),
        (6 * 86400.0, "6 d"),
    ],
)
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_numbers() -> None:
    assert [counted(number, "device", "devices") for number in (0, 1, 12345)] == [
        "0 devices",
        "1 device",
        "12,345 devices",
    ]
