"""The pictures of docs/why.md and docs/threat-model.md: what happens is data here, where it stands is too."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.reference.svg import drawing, line, rect, text

# -- what deduplication hides -----------------------------------------------------------------

#: What is done, the record it leaves, what the list then says is active, what is live.
STEPS = (
    ("load A, resume", "A", "A", "A"),
    ("load B, resume", "B", "B", "B"),
    ("load A, resume", "", "B", "A"),
)
ROWS = ("what is done", "the list gets", "active, by the list", "active, in the kernel")


def deduplication() -> str:
    return drawing(
        720,
        318,
        "What deduplication hides",
        "Table A is made active, then B, then A again. The first two leave records; the return to A "
        "leaves none, because the same records are in the list already. The list says B is active, the "
        "kernel has A.",
        _deduplication(),
    )


def _deduplication() -> Iterator[str]:
    left, width, top, height = 204, 150, 14, 58
    for number, words in enumerate(ROWS):
        yield text(24, top + height * number + 33, words, "title", "start")
        if number:
            yield line(f"M24 {top + height * number - 2} H696", "weak", arrow=False)
    for column, (done, record, by_list, live) in enumerate(STEPS):
        x = left + (width + 14) * column
        yield text(x + width / 2, top + 33, done)
        yield from _table(x, top + height + 9, width, record, "a record", "nothing: it has that")
        wrong = by_list != live
        yield from _table(x, top + 2 * height + 9, width, by_list, "table")
        yield from _table(x, top + 3 * height + 9, width, live, "table")
        if wrong:
            yield rect(x - 6, top + 2 * height + 3, width + 12, 2 * height - 4, "frame")
    yield text(
        24,
        284,
        "The kernel drops a record that is in the list already. Load and resume of A are there from",
        "faint",
        "start",
    )
    yield text(
        24,
        302,
        "the first time, so the return to A leaves no trace. The other way round, neither does an attack.",
        "faint",
        "start",
    )


def _table(x: float, y: float, width: float, name: str, words: str, nothing: str = "") -> Iterator[str]:
    yield rect(x, y, width, 36, {"A": "full", "B": "other", "": "void"}[name], 5)
    yield text(
        x + width / 2,
        y + 23,
        f"{words} {name}" if words == "table" else (f"{words} of {name}" if name else nothing),
        "on" if name else "faint",
    )


# -- two witnesses ----------------------------------------------------------------------------


def two_witnesses() -> str:
    return drawing(
        720,
        322,
        "Two witnesses",
        "The measurement list, sealed by the TPM's PCR 10, tells each new thing in order. The live tables "
        "tell what the kernel holds now. dmimad makes of both one state for each device, compares it with "
        "the baseline, and sends alerts over MQTT and metrics to Prometheus.",
        _two_witnesses(),
    )


def _words(x: float, y: float, title: str, *lines: str) -> Iterator[str]:
    yield text(x, y, title, "title", "start")
    for number, words in enumerate(lines):
        yield text(x, y + 20 + 18 * number, words, "faint", "start")


def _two_witnesses() -> Iterator[str]:
    yield rect(20, 20, 214, 78)
    yield from _words(34, 44, "measurement list", "each new thing, in order", "not: what happened before")
    yield rect(48, 136, 158, 44)
    yield text(127, 163, "TPM: PCR 10", "small")
    yield line("M127 136 V102")
    yield text(136, 123, "seals it", "faint", "start")
    yield rect(20, 224, 214, 78)
    yield from _words(34, 248, "live tables", "what the kernel holds now", "not: who says that it is true")
    yield rect(292, 72, 184, 116)
    yield from _words(306, 96, "one state per device")
    yield rect(306, 108, 74, 28, "full", 4)
    yield text(343, 127, "active", "on small")
    yield rect(388, 108, 74, 28, "void", 4)
    yield text(425, 127, "inactive", "faint")
    yield text(306, 156, "measured, observed", "faint", "start")
    yield text(306, 174, "or both", "faint", "start")
    yield line("M238 59 C264 59 264 108 288 108")
    yield line("M238 263 C264 263 264 160 288 160")
    yield rect(292, 242, 184, 60)
    yield from _words(306, 266, "baseline", "what you have approved")
    yield line("M384 242 V192")
    yield text(394, 222, "compared with", "faint", "start")
    yield line("M480 112 C506 112 506 72 530 72")
    yield line("M480 148 C506 148 506 188 530 188")
    yield rect(534, 36, 166, 72)
    yield from _words(548, 60, "alerts", "MQTT, each once,", "with evidence")
    yield rect(534, 152, 166, 72)
    yield from _words(548, 176, "metrics", "Prometheus,", "Grafana")


# -- trust boundaries -------------------------------------------------------------------------


def trust_boundaries() -> str:
    return drawing(
        720,
        404,
        "Trust boundaries",
        "On the monitored host: the kernel with list, device-mapper and PCR; the observer, which is root "
        "without network; the daemon, a user without capabilities; files in /etc/dmimad and /var/lib/dmimad. "
        "Elsewhere: the broker, the subscriber, browsers and Prometheus, and the key that signs baselines. "
        "Six boundaries are numbered.",
        _trust_boundaries(),
    )


def _trust_boundaries() -> Iterator[str]:
    yield rect(18, 18, 456, 368, "frame", 12)
    yield text(34, 42, "monitored host", "title", "start")
    yield rect(34, 56, 424, 66)
    yield from _words(48, 80, "kernel", "measurement list, device-mapper, the TPM's PCR 10")
    yield line("M18 146 H474", "weak", arrow=False)
    yield rect(34, 180, 176, 76)
    yield from _words(48, 204, "observer", "root, no network,", "reads live tables")
    yield rect(290, 180, 168, 76)
    yield from _words(304, 204, "daemon", "user dmimad,", "no capability")
    yield rect(34, 308, 176, 62)
    yield from _words(48, 332, "/etc/dmimad", "settings, baselines, keys")
    yield rect(290, 308, 168, 62)
    yield from _words(304, 332, "/var/lib/dmimad", "state, outbox")
    yield line("M122 126 V176")
    yield line("M374 126 V176")
    yield line("M214 218 H286")
    yield line("M214 326 C256 326 252 240 286 240")
    yield line("M374 260 V304")
    yield rect(534, 18, 166, 62)
    yield from _words(548, 42, "signing key", "of baselines, off-host")
    yield rect(534, 98, 166, 62)
    yield from _words(548, 122, "page, metrics", "can only be read")
    yield line("M462 196 C500 196 496 130 530 130")
    yield rect(534, 180, 166, 76)
    yield from _words(548, 204, "broker", "TLS; a host writes", "its own topics only")
    yield rect(534, 308, 166, 62)
    yield from _words(548, 332, "subscriber", "verifies, and keeps")
    yield line("M462 218 H530")
    yield line("M617 260 V304")
    for number, (x, y) in enumerate(
        ((248, 146), (250, 208), (232, 292), (497, 228), (637, 284), (497, 165)), start=1
    ):
        yield rect(x - 11, y - 11, 22, 22, "box", 11)
        yield text(x, y + 5, str(number), "small title")
