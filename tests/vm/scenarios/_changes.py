"""What attackers and the careless do to approved devices, and what must be said of each, as data.

Tables are as dmsetup gives them, and changed word by word: the tables themselves are this boot's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.vm.guest.actions import create, load, remove, rename, swap
from tests.vm.guest.guest import Guest
from tests.vm.scenarios import _host
from tests.vm.scenarios._host import Host

Edit = Callable[[list[str]], list[str]]
"""From a table's words to another table's."""


class Place:
    """The host with its approved tables, to change them and to put them back."""

    def __init__(self, guest: Guest, host: Host) -> None:
        self.guest = guest
        self.host = host
        self.approved = {name: host.table(name) for name in ("secret", "image-ro", "sealed", "plain")}
        self.approved |= {name: host.table(name) for name in ("vg0-data", "vg0-striped")}
        self.uuid = guest.dm.status(guest.dm.number_of(b"image-ro")).uuid

    def edited(self, name: str, edit: Edit) -> str:
        return " ".join(edit(self.approved[name].split()))


Act = Callable[[Place], None]


@dataclass(frozen=True, slots=True)
class Change:
    """One change, how it is undone, and what must be told of it.

    Attributes:
        device: the name that the alert has to give.
        attribute: of `data.differences`; empty: the alert's own expected and actual are meant.
        expected, actual: regular expressions for the whole value.
    """

    label: str
    device: str
    do: Act
    undo: Act
    codes: tuple[str, ...]
    attribute: str
    expected: str
    actual: str
    severity: str = "critical"


# -- words of tables ----------------------------------------------------------------------------


def word(index: int, change: Callable[[str], str] | str) -> Edit:
    """Another word in its place."""

    def edit(words: list[str]) -> list[str]:
        new = change if isinstance(change, str) else change(words[index])
        return [*words[:index], new, *words[index + 1 :]]

    return edit


def more(*added: str) -> Edit:
    """Words at the end."""
    return lambda words: [*words, *added]


def both(first: Edit, second: Edit) -> Edit:
    return lambda words: second(first(words))


def instead(*words: str) -> Edit:
    """Another target over the same sectors."""
    return lambda old: [*old[:2], *words]


def plus(number: int) -> Callable[[str], str]:
    return lambda text: str(int(text) + number)


def half_key(key: str) -> str:
    return key[: len(key) // 2]


# -- what is done ----------------------------------------------------------------------------


def _reloaded(name: str, edit: Edit) -> Act:
    return lambda place: swap(name, place.edited(name, edit))(place.guest)


def _put_back(name: str) -> Act:
    return lambda place: swap(name, place.approved[name])(place.guest)


def _staged(name: str, edit: Edit) -> Act:
    return lambda place: load(name, place.edited(name, edit))(place.guest)


def _discarded(name: str) -> Act:
    return lambda place: place.guest.dm.clear(name.encode())


def _remade(name: str, edit: Edit | None = None) -> Act:
    """Removed, and made again under name and uuid: a verity device is given no target of another type."""

    def act(place: Place) -> None:
        table = place.approved[name] if edit is None else place.edited(name, edit)
        remove(name)(place.guest)
        create(name, table, place.uuid)(place.guest)

    return act


def _removed(name: str) -> Act:
    return lambda place: remove(name)(place.guest)


def _made(name: str) -> Act:
    return lambda place: create(name, place.approved[name])(place.guest)


def _made_new(place: Place) -> None:
    create("backdoor", f"0 64 linear {_host.GAMMA} 98304")(place.guest)


def _extended(place: Place) -> None:
    """Sectors at the end that nobody asked for."""
    table = f"{place.approved['plain']}\n{_host.PLAIN_SECTORS} 64 linear {_host.GAMMA} 98304"
    swap("plain", table)(place.guest)


def _impostor(place: Place) -> None:
    remove("vg0-data")(place.guest)
    rename("plain", "vg0-data")(place.guest)


def _no_impostor(place: Place) -> None:
    rename("vg0-data", "plain")(place.guest)
    place.host.up("data")


def _changed(label: str, name: str, edit: Edit, attribute: str, expected: str, actual: str) -> Change:
    """A change of an active table."""
    return Change(label, name, _reloaded(name, edit), _put_back(name), ACTIVE, attribute, expected, actual)


ACTIVE = ("drift.active", "policy.attribute")
STAGED = ("drift.inactive", "policy.attribute")
OTHER_DIGEST = "77754fd80b128861951360525841b3d929c89877b2c4dc3db002ad4f1c9f62a0"
DIGEST = r"[0-9a-f]{64}"
#: Where words are in tables of dm-crypt, -verity, -integrity and -linear.
CIPHER, KEY, ROOT, MODE, DEVICE, OFFSET, LENGTH = 3, 4, 11, 6, 3, 4, 1

CHANGES = (
    _changed(
        "weaker cipher",
        "secret",
        both(word(CIPHER, "aes-cbc-plain64"), word(KEY, half_key)),
        "cipher_string",
        "aes-xts-plain64",
        "aes-cbc-plain64",
    ),
    _changed("shorter key", "secret", word(KEY, half_key), "key_size", ".*64.*", "32"),
    _changed("discards on", "secret", more("1", "allow_discards"), "allow_discards", "n", "y"),
    _changed(
        "verity root changed", "image-ro", word(ROOT, OTHER_DIGEST), "root_digest", DIGEST, OTHER_DIGEST
    ),
    _changed(
        "verity told to ignore corruption",
        "image-ro",
        more("1", "ignore_corruption"),
        "verity_mode",
        "n|none|not named",
        "ignore_corruption",
    ),
    Change(
        "verity staged over, never resumed",
        "image-ro",
        _staged("image-ro", word(ROOT, OTHER_DIGEST)),
        _discarded("image-ro"),
        STAGED,
        "root_digest",
        DIGEST,
        OTHER_DIGEST,
    ),
    Change(
        "verity replaced by linear",
        "image-ro",
        _remade("image-ro", instead("linear", _host.IMAGE, "0")),
        _remade("image-ro"),
        ACTIVE,
        "type",
        "verity",
        "linear",
    ),
    _changed("offset moved", "vg0-data", word(OFFSET, plus(8)), "start", r"\d+", r"\d+"),
    _changed("shortened", "vg0-data", word(LENGTH, "32768"), "length", "65536", "32768"),
    _changed(
        "backing device exchanged",
        "plain",
        word(DEVICE, _host.MORE_VOLUMES),
        "device_name",
        ".*vm-gamma.*",
        "partuuid:[0-9a-f-]{36}",
    ),
    Change(
        "target added at the end",
        "plain",
        _extended,
        _put_back("plain"),
        ACTIVE,
        "type",
        "no such target",
        "linear",
    ),
    _changed(
        "replaced by an opaque target", "vg0-striped", instead("zero"), "type", "striped", "zero|opaque"
    ),
    _changed("journal switched off", "sealed", word(MODE, "D"), "mode", "J", "D"),
    Change(
        "another device renamed over it",
        "vg0-data",
        _impostor,
        _no_impostor,
        ("device.renamed",),
        "name",
        "plain",
        "vg0-data",
        severity="",
    ),
    Change(
        "removed",
        "plain",
        _removed("plain"),
        _made("plain"),
        ("device.missing", "device.removed"),
        "",
        "plain",
        "none",
        severity="",
    ),
    Change(
        "a device nobody knows",
        "backdoor",
        _made_new,
        _removed("backdoor"),
        ("device.unexpected",),
        "",
        ".*",
        ".+",
        severity="warning",
    ),
)
