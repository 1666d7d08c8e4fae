"""Values of the TPM's PCRs, as the kernel shows them in sysfs.

Source: ``drivers/char/tpm/tpm-sysfs.c``, Linux 5.15 to 7.2: ``/sys/class/tpm/tpmN/pcr-BANK/INDEX``, one
file for each PCR of each allocated bank, readable by everybody: upper-case hexadecimal digits and a newline.

Every read is a command to the TPM, some 10 ms with a real one: call from a thread.  What it does not do:
talk to the TPM itself, remember anything, or judge a value.
"""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Final

from dmimad.core.errors import AdapterError

#: A PCR of the widest bank (SHA-512) is 128 digits; what follows so many bytes is not looked at.
MAX_VALUE_BYTES: Final = 256
#: So many entries of a directory are looked at; real ones have some 30.
MAX_ENTRIES: Final = 1000

_TPM = re.compile(r"tpm([0-9]{1,5})")
_BANK = re.compile(r"pcr-([a-z0-9_-]{1,32})")
_DIGITS = re.compile(rb"(?:[0-9A-Fa-f]{2}){1,64}")
_DIGEST_BYTES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
_REMEDY = "see the kernel's log for the TPM's state, or set tpm.enabled to false"


class Tpm:
    """The host's TPM: of several, the first that shows PCRs.

    Args:
        root: sysfs's directory of TPMs; absent if the host has none.
    """

    def __init__(self, root: Path = Path("/sys/class/tpm")) -> None:
        self._root = root

    def banks(self) -> tuple[str, ...]:
        """The banks whose PCRs can be read, as ``sha256``; empty without a TPM.

        Raises AdapterError if there is a TPM and sysfs cannot be read.
        """
        return self._find()[1]

    def read(self, bank: str, pcr: int = 10) -> bytes | None:
        """A PCR's value; None if there is no TPM, or it has no such bank.

        Raises AdapterError if there is one and the PCR cannot be read, or is not a PCR's value.
        """
        tpm, banks = self._find()
        if bank not in banks:
            return None
        path = tpm / f"pcr-{bank}" / str(pcr)
        try:
            with path.open("rb", buffering=0) as file:
                text = file.read(MAX_VALUE_BYTES + 1).strip()
        except OSError as error:
            raise _unreadable(path, error) from error
        wanted_bytes = _DIGEST_BYTES.get(bank, len(text) // 2)
        if not _DIGITS.fullmatch(text) or len(text) != 2 * wanted_bytes:
            raise AdapterError(
                "the TPM's driver shows something else than the value of a PCR", str(path), _REMEDY
            )
        return bytes.fromhex(text.decode("ascii"))

    def _find(self) -> tuple[Path, tuple[str, ...]]:
        """The TPM's directory and its banks."""
        numbers = sorted(int(found[1]) for found in map(_TPM.fullmatch, _names(self._root)) if found)
        for number in numbers:
            tpm = self._root / f"tpm{number}"
            banks = sorted(found[1] for found in map(_BANK.fullmatch, _names(tpm)) if found)
            if banks:
                return tpm, tuple(banks)
        return self._root, ()


def _names(directory: Path) -> list[str]:
    """What is in a directory; nothing if it is not there."""
    try:
        return [entry.name for entry in islice(directory.iterdir(), MAX_ENTRIES)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(directory, error) from error


def _unreadable(path: Path, error: OSError) -> AdapterError:
    return AdapterError(f"cannot read the TPM's PCRs: {error.strerror or error}", str(path), _REMEDY)
