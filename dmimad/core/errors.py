"""Every error dmimad raises on purpose, one tree.

    DmimadError
    ├── MalformedError       bytes that are not what their format says (list, record, event)
    ├── TransitionError      a dm event that the device's state does not allow
    ├── ResumeError          a checkpoint that does not belong to this list
    │   └── ListGapError     the list was trimmed, and the last record read is not in it any more
    ├── BaselineError        a baseline file that is not usable
    │   └── SignatureError   one that is not signed as it must be, or is older than one seen before
    ├── SettingsError        a settings file that is not usable
    ├── RequestError         something asked of the running daemon that it refuses
    ├── InternalError        a bug of dmimad's own
    └── AdapterError         the outside world: a file, a socket, a broker, a database
        ├── DamagedError     a database that is not what was stored any more
        └── StateRefusedError  a state directory that must not be used

Each message is one line that says what, where and what to do; the attributes carry the
same as data.  The command line prints the message and exits with status 2.
"""

from __future__ import annotations


class DmimadError(Exception):
    """Root of the tree; never raised itself."""


class MalformedError(DmimadError):
    """Bytes that do not follow their format.

    Attributes:
        reason: what is wrong, one line.
        offset: byte offset in the input, if known.
    """

    def __init__(self, reason: str, *, offset: int | None = None) -> None:
        super().__init__(reason if offset is None else f"{reason} (at byte {offset})")
        self.reason = reason
        self.offset = offset


class TransitionError(DmimadError):
    """A device-mapper event that is impossible in the state the device is in."""

    def __init__(self, event: str, state: str, reason: str) -> None:
        super().__init__(f"{event} in state {state}: {reason}")
        self.event = event
        self.state = state
        self.reason = reason


class ResumeError(DmimadError):
    """The list is not the one the checkpoint was taken from; read it from the start."""


class ListGapError(ResumeError):
    """Records were deleted from the list, the last one read among them; what came next may be lost."""


class _FileError(DmimadError):
    """A file a person wrote, with where and why it is refused."""

    def __init__(self, file: str, reason: str, *, key: str = "", line: int | None = None) -> None:
        where = file if line is None else f"{file}:{line}"
        super().__init__(f"{where}: {key}: {reason}" if key else f"{where}: {reason}")
        self.file = file
        self.key = key
        self.line = line
        self.reason = reason


class BaselineError(_FileError):
    """A baseline file that is refused: file, line, key, reason."""


class SignatureError(BaselineError):
    """A baseline file that is not signed as it must be, is older than one before, or is gone."""


class SettingsError(_FileError):
    """A settings file that is refused: file, line, key, reason."""


class RequestError(DmimadError):
    """Something asked of the running daemon that is refused; the message says why."""


class AdapterError(DmimadError):
    """Something outside failed: `what` failed, `where`, and what to do about it."""

    def __init__(self, what: str, where: str, remedy: str = "") -> None:
        super().__init__(f"{where}: {what}" + (f"; {remedy}" if remedy else ""))
        self.what = what
        self.where = where
        self.remedy = remedy


class DamagedError(AdapterError):
    """The database is damaged, or another one is in its place; waiting does not help, a new one does."""


class StateRefusedError(AdapterError):
    """The state directory is another daemon's or a newer version's; waiting does not help."""


class InternalError(DmimadError):
    """Something that cannot happen did: a bug.

    Args:
        error: what was raised; where it was is taken from its traceback.
    """

    def __init__(self, error: BaseException) -> None:
        traceback, where = error.__traceback__, "an unknown place"
        while traceback is not None:
            where = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
            traceback = traceback.tb_next
        text = " ".join(str(error).split())
        super().__init__(
            f"internal error: {type(error).__name__}: {text} (at {where}); "
            "nothing stored is lost; start it again, and report this"
        )
