"""Baselines that must be signed: which files may be in force, and which is older than one before.

Source: none; the rules are dmimad's own and stand in docs/signing.md:

- every file needs a valid signature of a trusted key over exactly its bytes, and a ``serial``;
- a file's serial never falls, and with the same serial its bytes are the same;
- a file that appears later needs a serial above all that were accepted, so that an older file does not come
  back under another name (a signature does not say what the file is called);
- a file in force does not vanish, unless it has no entries.

Pure: who calls reads the files, keeps what was accepted, and knows the keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from dmimad.core.baseline import Baseline, merge, parse_baseline
from dmimad.core.dsse import Envelope, Verify
from dmimad.core.errors import BaselineError, MalformedError, SignatureError

#: What a signature over a baseline file is a signature over.
PAYLOAD_TYPE = "application/vnd.dmimad.baseline+toml"
#: Added to a file's name: where its signatures are.
SUFFIX = ".sig"

_KEYID = re.compile(r"ed25519:[0-9a-f]{32}")
_SHOWN_KEYS = 3
_SIGN_IT = "sign it with: dmimad baseline sign"


@dataclass(frozen=True, slots=True)
class SignedFile:
    """One baseline file as it was read; ``signatures`` is the content of its ``.sig``, None without one."""

    path: str
    data: bytes
    signatures: bytes | None


@dataclass(frozen=True, slots=True)
class ApprovedFile:
    """What was accepted last under a path.

    A file that is not in force any more leaves its serial, and no content.
    """

    path: str
    serial: int
    data: bytes
    signatures: bytes
    in_force: bool = True


@dataclass(frozen=True, slots=True)
class Accepted:
    """A whole directory that is in order: what it approves, and what to remember of it by path."""

    baseline: Baseline
    files: Mapping[str, ApprovedFile]


def signers(file: SignedFile, verify: Verify) -> tuple[str, ...]:
    """Ids of the trusted keys that signed the file, at least one; raises SignatureError."""
    if file.signatures is None:
        raise SignatureError(file.path, f"is not signed: there is no {SUFFIX} file; {_SIGN_IT}")
    try:
        envelope = Envelope.from_json(file.signatures, payload=file.data)
    except MalformedError as error:
        raise SignatureError(file.path + SUFFIX, error.reason) from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise SignatureError(file.path + SUFFIX, "is not a signature of a baseline file")
    valid = envelope.signers(verify)
    if not valid:
        known = [s.keyid for s in envelope.signatures if _KEYID.fullmatch(s.keyid)][:_SHOWN_KEYS]
        by = ", ".join(known) or "another key"
        raise SignatureError(
            file.path, f"no trusted key has signed these bytes; they claim to be signed by {by}"
        )
    return valid


def sign_file(file: SignedFile, keyid: str, sign: Callable[[bytes], bytes]) -> bytes:
    """What to write beside the file: this key's signature, and those by others of the same bytes.

    Raises:
        BaselineError: the file is no baseline, or has no serial.
    """
    _need_serial(file, parse_file(file.path, file.data).serial)
    envelope = Envelope(file.data, PAYLOAD_TYPE)
    try:
        former = Envelope.from_json(file.signatures or b"", payload=file.data)
    except MalformedError:  # none, or of other bytes: they are worth nothing
        former = envelope
    if former.payload_type == PAYLOAD_TYPE:
        envelope = former
    return envelope.signed_by(keyid, sign).to_json(detached=True) + b"\n"


def parse_file(path: str, data: bytes) -> Baseline:
    """The bytes of a baseline file; raises BaselineError."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BaselineError(path, "is not UTF-8 text", line=line) from error
    return parse_baseline(text, path)


def verified_serial(file: SignedFile, verify: Verify) -> tuple[int, tuple[str, ...]]:
    """The serial and the signers of a file that could be accepted; raises BaselineError."""
    valid = signers(file, verify)
    return _need_serial(file, parse_file(file.path, file.data).serial), valid


def accept(
    files: Iterable[SignedFile], directory: str, known: Mapping[str, ApprovedFile], verify: Verify
) -> Accepted:
    """Accept all files of a directory together.

    Args:
        known: what was accepted before, by path.

    Raises:
        SignatureError: a file may not be in force, or a missing one still has to be.
        BaselineError: all are signed as they must be, and one cannot be used all the same.
    """
    before = {path: file for path, file in known.items() if path.rpartition("/")[0] == directory.rstrip("/")}
    highest = max((file.serial for file in before.values()), default=None)
    accepted: dict[str, ApprovedFile] = {}
    baselines, unusable = [], None
    for file in files:
        signers(file, verify)
        try:
            baseline = parse_file(file.path, file.data)
        except BaselineError as error:  # whether the other files are signed matters more
            unusable = unusable or error
            continue
        serial = _check_serial(file, baseline.serial, before.get(file.path), highest)
        accepted[file.path] = ApprovedFile(file.path, serial, file.data, file.signatures or b"")
        baselines.append(baseline)
    if unusable is not None:
        raise unusable
    for path in sorted(before.keys() - accepted.keys()):
        _check_vanished(before[path])
    retired = {
        path: replace(file, data=b"", signatures=b"", in_force=False)
        for path, file in known.items()
        if path not in accepted
    }
    return Accepted(merge(baselines), {**retired, **accepted})


def last_good(known: Iterable[ApprovedFile], verify: Verify) -> Baseline:
    """What was in force last, checked again; raises BaselineError if it may not be any more."""
    baselines = []
    for file in known:
        if file.in_force:
            signers(SignedFile(file.path, file.data, file.signatures), verify)
            baselines.append(parse_file(file.path, file.data))
    return merge(baselines)


def _check_serial(
    file: SignedFile, serial: int | None, before: ApprovedFile | None, highest: int | None
) -> int:
    serial = _need_serial(file, serial)
    if before is None:
        if highest is not None and serial <= highest:
            reason = f"a further file needs a serial above {highest}, the highest accepted so far"
            raise SignatureError(file.path, reason, key="serial")
    elif serial < before.serial:
        reason = f"{serial} is older than {before.serial}, which was accepted before"
        raise SignatureError(file.path, reason, key="serial")
    elif serial == before.serial and before.in_force and file.data != before.data:
        reason = f"{serial} was accepted with other content; a changed file needs a higher one"
        raise SignatureError(file.path, reason, key="serial")
    elif serial == before.serial and not before.in_force:
        reason = f"{serial} was accepted before, and the file was retired; it needs a higher one"
        raise SignatureError(file.path, reason, key="serial")
    return serial


def _need_serial(file: SignedFile, serial: int | None) -> int:
    if serial is None:
        reason = "a signed baseline needs one, a number that grows with each version: serial = 1"
        raise SignatureError(file.path, reason, key="serial")
    return serial


def _check_vanished(file: ApprovedFile) -> None:
    if file.in_force and parse_file(file.path, file.data).entries:
        reason = "is gone, and is in force; to retire it, sign one without entries and with a higher serial"
        raise SignatureError(file.path, reason)
