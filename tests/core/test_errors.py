"""What errors say: one line."""

from __future__ import annotations

from dmimad.core.errors import InternalError


def raised() -> ValueError:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        return error


def test_an_internal_error_says_what_and_where_in_one_line() -> None:
    text = str(InternalError(raised()))
    assert text.startswith("internal error: ValueError: two lines (at ")
    assert f"{__file__}:10)" in text
    assert "\n" not in text


def test_an_internal_error_that_was_never_raised() -> None:
    assert "(at an unknown place)" in str(InternalError(KeyError("x")))
