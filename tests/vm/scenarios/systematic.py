"""Every event, every kind of table that kernels have, odd names, and each way a record can be dropped."""

from __future__ import annotations

from tests.vm.guest.actions import (
    clear,
    create,
    create_empty,
    load,
    message,
    remove,
    remove_all,
    rename,
    resume,
    set_uuid,
    suspend,
    swap,
    together,
)
from tests.vm.guest.guest import Guest, Step
from tests.vm.scenarios import _tables as t

SUMMARY = "after every step of every kind the daemon's devices equal the kernel's, and nothing is alarmed"

LONG = "L" * 127
SEPARATORS = "=" * 127
SEPARATED_UUID = ";" * 128
KEY = "1" * 32
LATIN1 = "bêtô".encode("latin-1")

EVENTS = (
    Step("create linear of 4 targets", create("linear1", t.many(4, 0, 512))),
    Step("suspend", suspend("linear1")),
    Step("resume without load", resume("linear1")),
    Step("load replacement", load("linear1", t.many(2, 1))),
    Step("load again before resume", load("linear1", t.linear(2, 0, 16))),
    Step("suspend with a table staged", suspend("linear1")),
    Step("resume swaps", resume("linear1")),
    Step("load staged", load("linear1", t.linear(3, 0, 16))),
    Step("clear staged", clear("linear1")),
    Step("clear with nothing staged", clear("linear1")),
    Step("remove after clear", remove("linear1")),
    Step("create again", create("linear1", t.linear(0, 256))),
    Step("rename", rename("linear1", "linear=2")),
    Step("set uuid", set_uuid("linear=2", "1234-5678")),
    Step("rename to separators", rename("linear=2", r"a,b;c=d\e")),
    Step("load under new name", load(r"a,b;c=d\e", t.linear(3, 0, 32))),
    Step("rename while staged", rename(r"a,b;c=d\e", "plain")),
    Step("resume after rename while staged", resume("plain")),
    Step("remove", remove("plain")),
    Step("create without table", create_empty("empty")),
    Step("resume without table", resume("empty")),
    Step("rename without table", rename("empty", "empty2")),
    Step("clear without table", clear("empty2")),
    Step("remove without table", remove("empty2")),
    Step("create without table, with uuid", create_empty("empty3", "LVM-abc")),
    Step("load only", load("empty3", t.linear(0))),
    Step("suspend with only a staged table", suspend("empty3")),
    Step("rename with only a staged table", rename("empty3", "empty4")),
    Step("remove with only a staged table", remove("empty4")),
    Step("load into empty", together(create_empty("first"), load("first", t.linear(1)))),
    Step("resume the first table", resume("first")),
    Step("stage beside it", load("first", t.linear(2))),
    Step("remove with both", remove("first")),
    Step("set uuid while staged", together(create("late", t.linear(0)), load("late", t.linear(1)))),
    Step("uuid set later", set_uuid("late", "CRYPT-LUKS2-0123456789abcdef-late")),
    Step("resume under uuid", resume("late")),
    Step("remove it", remove("late")),
    Step("clear the only table", together(create_empty("only"), load("only", t.linear(4)), clear("only"))),
    Step("load after clear", load("only", t.linear(5))),
    Step("resume after clear", resume("only")),
    Step("stage and clear", together(load("only", t.linear(6)), clear("only"))),
    Step("suspend after clear", suspend("only")),
    Step("resume after clear of staged", resume("only")),
    Step("remove that", remove("only")),
)

DROPPED = (
    Step("A", create("flip", t.linear(4))),
    Step("load B", load("flip", t.linear(5))),
    Step("resume B", resume("flip")),
    Step("load A again", load("flip", t.linear(4))),
    Step("resume A again", resume("flip")),
    Step("B again, at once", swap("flip", t.linear(5))),
    Step("A again, at once", swap("flip", t.linear(4))),
    Step("swap undone", together(swap("flip", t.linear(5)), swap("flip", t.linear(4)))),
    Step("load B, stays staged", load("flip", t.linear(5))),
    Step("clear B", clear("flip")),
    Step("load B after clear", load("flip", t.linear(5))),
    Step("clear B again", clear("flip")),
    Step("suspend", suspend("flip")),
    Step("resume of the same", resume("flip")),
    Step("remove", remove("flip")),
    Step("create the same", create("flip", t.linear(4))),
    Step("remove the same", remove("flip")),
    Step("create and remove", together(create("flip", t.linear(4)), remove("flip"))),
    Step("another on its minor", create("other", t.linear(6))),
    Step("the former on the next minor", create("flip", t.linear(4))),
    Step("remove the other", remove("other")),
    Step("a third on the free minor", create("third", t.linear(7))),
    Step("remove the third", remove("third")),
    Step("the other again", create("other", t.linear(6))),
    Step("removed and made again", together(remove("other"), create("other", t.linear(6)))),
    Step("names exchanged", together(rename("flip", "tmp"), rename("other", "flip"), rename("tmp", "other"))),
    Step("and back", together(rename("flip", "tmp"), rename("other", "flip"), rename("tmp", "other"))),
    Step("exchanged again", together(rename("flip", "tmp"), rename("other", "flip"), rename("tmp", "other"))),
    Step("remove both", remove_all()),
    Step("zero", create("opaque", "0 64 zero")),
    Step("error has the same hash", swap("opaque", "0 64 error")),
    Step("zero again", swap("opaque", "0 64 zero")),
    Step("remove opaque", remove("opaque")),
    Step("create named", create("there", t.linear(1, 64))),
    Step("rename there", rename("there", "back")),
    Step("rename back", rename("back", "there")),
    Step("rename there again", rename("there", "back")),
    Step("rename back again", rename("back", "there")),
    Step(
        "stage, rename, clear",
        together(load("there", t.linear(2, 64)), rename("there", "back"), clear("back")),
    ),
    Step("remove named", remove("back")),
    Step("clear and load again", together(create("turn", t.linear(0, 80)), load("turn", t.linear(0, 88)))),
    Step("cleared", clear("turn")),
    Step("loaded again", load("turn", t.linear(0, 88))),
    Step("resumed", resume("turn")),
    Step("remove turn", remove("turn")),
)

COUNTS = (30, 36, 37, 38, 72, 74, 110, 200)
MANY = (
    *(Step(f"{count} targets", create(f"many{count}", t.many(count, 7))) for count in COUNTS),
    Step("reload many", load("many110", t.many(110, 6))),
    Step("resume many", resume("many110")),
    Step("many back, dropped", swap("many110", t.many(110, 7))),
    Step("stage overflow", load("many200", t.many(37, 5))),
    Step("overflow becomes active", resume("many200")),
    *(Step(f"remove {count} targets", remove(f"many{count}")) for count in COUNTS),
)

NAMES = (
    Step("space", create("sp ace", t.linear(0))),
    Step("UTF-8", create("naïve-设备", t.linear(0))),
    Step("127 bytes", create(LONG, t.linear(0))),
    Step("127 separators, uuid too", create(SEPARATORS, t.linear(0), SEPARATED_UUID)),
    Step("Latin-1", create(LATIN1, t.linear(0))),
    Step("quote and percent", create("q\"uote'%n$(x)", t.linear(0))),
    Step("wildcards", create("*[a]?", t.linear(0), "U*[b]?")),
    Step("topic characters", create("a+b#c", t.linear(0))),
    Step("Latin-1 reload", swap(LATIN1, t.linear(1))),
    Step("Latin-1 renamed", rename(LATIN1, LATIN1 + b"\xff")),
    Step("separators reload", swap(SEPARATORS, t.linear(1))),
    Step("remove the odd names", remove_all()),
)

KINDS = (
    Step("zero", create("tzero", "0 64 zero")),
    Step("error", create("terror", "0 64 error")),
    Step("mixed", create("tmixed", t.mixed(0))),
    Step("striped", create("tstriped", t.striped(1))),
    Step("delay", create("tdelay", f"0 1024 delay {t.ram(3)} 0 10"), optional=True),
    Step("flakey", create("tflakey", f"0 1024 flakey {t.ram(3)} 0 60 0"), optional=True),
    Step("crypt", create("tcrypt", t.crypt(4))),
    Step(
        "crypt with large sectors",
        create(
            "tcrypt2",
            f"0 2048 crypt aes-cbc-essiv:sha256 {KEY} 0 {t.ram(4)} 0 2 sector_size:4096 iv_large_sectors",
            "CRYPT-LUKS2-0123456789abcdef0123456789abcdef-tcrypt2",
        ),
    ),
    Step("snapshot-origin", create("torigin", f"0 2048 snapshot-origin {t.ram(5)}")),
    Step("snapshot", create("tsnapshot", t.snapshot(5, 6))),
    Step("mirror", create("tmirror", t.mirror(7, 0)), optional=True),
    Step(
        "raid1",
        create("traid", f"0 2048 raid raid1 3 0 region_size 128 2 - {t.ram(1)} - {t.ram(2)}"),
        optional=True,
    ),
    Step(
        "integrity",
        create("tintegrity", f"0 16 integrity {t.ram(3)} 0 4 J 1 internal_hash:crc32c"),
        optional=True,
    ),
    Step(
        "verity",
        create("tverity", t.verity(0, 1), "CRYPT-VERITY-c76d07343d3a49b5ab01025d3b354df5-v"),
    ),
    Step(
        "verity with options",
        create("tverity2", t.verity(0, 1, options="2 ignore_corruption ignore_zero_blocks")),
    ),
    Step(
        "cache",
        create("tcache", f"0 8192 cache {t.ram(2)} {t.ram(3)} {t.ram(4)} 128 1 writethrough smq 0"),
        True,
    ),
    Step("thin-pool", create("tpool", f"0 8192 thin-pool {t.ram(5)} {t.ram(6)} 128 0")),
    Step("thin", together(message("tpool", "create_thin 0"), create("tthin", "0 2048 thin @tpool 0"))),
    Step(
        "thin snapshot",
        together(
            suspend("tthin"),
            message("tpool", "create_snap 1 0"),
            resume("tthin"),
            create("tthin1", "0 2048 thin @tpool 1"),
        ),
    ),
    Step("writecache", create("twritecache", f"0 8192 writecache s {t.ram(7)} {t.ram(1)} 4096 0"), True),
    Step(
        "multipath",
        create(
            "tmultipath",
            f"0 2048 multipath 2 queue_mode bio 0 1 1 round-robin 0 2 1 {t.ram(4)} 1000 {t.ram(5)} 1000",
        ),
        optional=True,
    ),
    Step("era", create("tera", f"0 2048 era {t.ram(0)} {t.ram(2)} 128"), optional=True),
    Step("log-writes", create("tlog", f"0 2048 log-writes {t.ram(3)} {t.ram(7)}"), optional=True),
    Step("unstriped", create("tunstriped", f"0 512 unstriped 2 128 0 {t.ram(1)} 0"), optional=True),
    Step("switch", create("tswitch", f"0 1024 switch 2 128 0 {t.ram(1)} 0 {t.ram(2)} 0"), optional=True),
    Step("on top of another", create("tstack", "0 1024 linear @tcrypt 0")),
    Step("verity suspended", suspend("tverity")),
    Step("verity resumed", resume("tverity")),
    Step("verity swapped", swap("tverity", t.verity(0, 1, t.OTHER_DIGEST))),
    Step("verity back", swap("tverity", t.verity(0, 1))),
    Step("striped staged", load("tstriped", t.striped(3))),
    Step("refused load", load("tstriped", "0 1024 linear /dev/nosuch 0"), optional=True),
    Step("striped resumed", resume("tstriped")),
    Step("mirror reload", load("tmirror", t.mirror(7, 2)), optional=True),
    Step("mirror resumed", resume("tmirror"), optional=True),
    Step("crypt to linear", swap("tcrypt2", t.linear(4, 0, 2048))),
    Step("crypt renamed", rename("tcrypt", "tcrypt=3")),
    Step("remove all", remove_all()),
)


def run(guest: Guest) -> None:
    guest.start()
    guest.compare_now("nothing there")
    for steps in (EVENTS, DROPPED, MANY, NAMES, KINDS):
        guest.run(steps)
    guest.finish()
