"""What errors say: one line."""

from __future__ import annotations

from dmimad.core.errors import AdapterError, InternalError


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


def test_an_adapter_error_says_where_what_and_what_to_do() -> None:
    error = AdapterError("cannot open", "/var/lib/dmimad", "make the directory")
    assert str(error) == "/var/lib/dmimad: cannot open; make the directory"
    assert (error.what, error.where, error.remedy) == ("cannot open", "/var/lib/dmimad", "make the directory")
    assert str(AdapterError("cannot open", "/var/lib/dmimad")) == "/var/lib/dmimad: cannot open"
