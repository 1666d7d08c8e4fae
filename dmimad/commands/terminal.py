"""A terminal that is used as a whole: another screen, keys one by one, signals, and all as before at the end.

Source: console_codes(4), termios(3), tty_ioctl(4); XTerm's control sequences for the other screen.

It does not know what is shown.  Only SIGKILL leaves the terminal as it was not.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Self, TextIO

# The other screen, no cursor, and what is too wide after all is cut and not wrapped; and back.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _END_LINE, _END_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MAX_KEYS_BYTES = 1024

KEYS = {
    b"q": "quit",
    b"Q": "quit",
    b"k": "up",
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"j": "down",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"b": "page up",
    b"\x1b[6~": "page down",
    b" ": "page down",
    b"g": "home",
    b"\x1b[H": "home",
    b"\x1bOH": "home",
    b"\x1b[1~": "home",
    b"G": "end",
    b"\x1b[F": "end",
    b"\x1bOF": "end",
    b"\x1b[4~": "end",
}
"""What terminals send, and what it is called here."""


@dataclass(frozen=True, slots=True)
class Woken:
    """Why a wait has ended: keys by their names, and whether there is something to read elsewhere."""

    keys: Sequence[str] = ()
    readable: bool = False


class Terminal:
    """A context in which the terminal is used as a whole.

    ``received`` is the first signal that asks for the end, or None.  Signals interrupt nothing but `wait`.
    """

    def __init__(self, out: TextIO) -> None:
        self.received: int | None = None
        self._out = out
        self._keys = _keyboard()
        self._modes: list[object] | None = None
        self._stack = contextlib.ExitStack()
        self._signalled = -1
        self._suspend = False

    @property
    def has_keys(self) -> bool:
        """Whether somebody can type."""
        return self._keys is not None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._signals())
            stack.callback(self._leave)
            self._enter()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def size(self) -> tuple[int, int]:
        """Columns and rows, as they are now."""
        try:
            found = os.get_terminal_size(self._out.fileno())
        except OSError:
            return 80, 24
        return found.columns or 80, found.lines or 24  # 0 where nobody has told the terminal its size

    def show(self, lines: Sequence[str]) -> None:
        """These in the place of what was there, in one write, so that it does not flicker."""
        self._out.write(_HOME + "\r\n".join(line + _END_LINE for line in lines) + _END_SCREEN)
        self._out.flush()

    def wait(self, others: Sequence[int], seconds: float) -> Woken:
        """Until a key, a signal, something to read from one of `others`, or the end of this time."""
        watched = [self._signalled, *others, *([] if self._keys is None else [self._keys])]
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._signalled in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._signalled, 4096)
        if self._suspend:
            self._suspend = False
            self._leave()
            os.kill(os.getpid(), signal.SIGSTOP)  # until SIGCONT
            self._enter()
        keys = self._typed() if self._keys is not None and self._keys in ready else []
        return Woken(keys, any(other in ready for other in others))

    # -- the terminal --------------------------------------------------------------------------

    def _enter(self) -> None:
        if self._keys is not None:
            with contextlib.suppress(termios.error):
                self._modes = termios.tcgetattr(self._keys)
                tty.setcbreak(self._keys, termios.TCSANOW)
        self._out.write(_ENTER)
        self._out.flush()

    def _leave(self) -> None:
        with contextlib.suppress(OSError):  # it may be gone
            self._out.write(_LEAVE)
            self._out.flush()
        if self._keys is not None and self._modes is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSANOW, self._modes)  # type: ignore[arg-type]  # as got
            self._modes = None

    def _typed(self) -> list[str]:
        assert self._keys is not None
        try:
            typed = os.read(self._keys, _MAX_KEYS_BYTES)
        except OSError:
            typed = b""
        if not typed:  # nobody types any more
            self._keys = None
        return list(names_of(typed))

    # -- signals -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """They are noted and end a wait, no more, so that the terminal is always put in order."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        handlers = {
            **dict.fromkeys(_ENDING, self._end),
            signal.SIGTSTP: self._stop,
            signal.SIGWINCH: self._nothing,
        }
        before = {number: signal.getsignal(number) for number in handlers}
        self._signalled = reading
        former = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            for number, handler in handlers.items():
                if before[number] is not signal.SIG_IGN:  # nohup's stays ignored
                    signal.signal(number, handler)
            yield
        finally:
            for number, handled in before.items():
                signal.signal(number, handled)
            signal.set_wakeup_fd(former)
            os.close(reading)
            os.close(writing)

    def _end(self, number: int, _: FrameType | None) -> None:
        self.received = self.received or number

    def _stop(self, _: int, __: FrameType | None) -> None:
        self._suspend = True

    def _nothing(self, _: int, __: FrameType | None) -> None:
        """That it came is what counts."""


def names_of(typed: bytes) -> Iterator[str]:
    """The known ones among the keys that were typed; what is not known is passed over."""
    while typed:
        known = next((keys for keys in KEYS if typed.startswith(keys)), None)
        if known is not None:
            yield KEYS[known]
        typed = typed[len(known or typed[:1]) :]


def _keyboard() -> int | None:
    """What somebody types on, if there is such a thing."""
    try:
        return sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    except (OSError, ValueError):
        return None
