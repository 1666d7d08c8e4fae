"""The place of a socket is made free only if nobody is there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dmimad.core.errors import AdapterError
from dmimad.system.sockets import make_way_at


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "sock"


def listener_at(place: Path, backlog: int = 1) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(place))
    made.listen(backlog)
    return made


def test_nothing_is_there(place: Path) -> None:
    assert make_way_at(place, remedy="")


def test_one_that_was_left_behind_goes(place: Path) -> None:
    listener_at(place).close()
    assert place.is_socket()
    assert make_way_at(place, remedy="")
    assert not place.exists()


def test_one_that_somebody_listens_on_stays_also_when_it_is_full(place: Path) -> None:
    with listener_at(place, 0):
        assert not make_way_at(place, remedy="")
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for each in (first, second):
                each.setblocking(False)
                each.connect_ex(str(place))
            assert not make_way_at(place, remedy="")
        assert place.is_socket()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_something_else_stays(place: Path, tmp_path: Path, kind: str) -> None:
    """A link is not followed: it is not ours, wherever it leads."""
    if kind == "file":
        place.write_bytes(b"x")
    elif kind == "directory":
        place.mkdir()
    else:
        listener_at(tmp_path / "elsewhere").close()
        place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdapterError) as caught:
        make_way_at(place, remedy="remove it")
    assert str(caught.value) == f"{place}: exists and is no socket; remove it"
    assert place.is_symlink() == (kind == "link")
    assert place.exists()
