"""Commands of the documentation, run as somebody does who types them: all in one shell.

Nothing is known here of what they do.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

_INDENT = "    "
_END = "-- ended with "


def commands_after(words: str, page: str) -> Sequence[str]:
    """The lines of the first indented block after the paragraph that begins so."""
    match = re.search(rf"^{re.escape(words)}.*\n\n((?:{_INDENT}.*\n|\n(?={_INDENT}))+)", page, re.MULTILINE)
    assert match is not None, f"the page has no commands after: {words}"
    return [line.removeprefix(_INDENT) for line in match[1].splitlines() if line.strip()]


class Shell:
    """One that keeps its variables from command to command."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *commands: str) -> str:
        """Each of them has to succeed; what they printed."""
        printed = ""
        for command in commands:
            status, text = self.try_to(command)
            assert status == 0, f"{command}: exit status {status}:\n{text}"
            printed += text
        return printed

    def try_to(self, command: str) -> tuple[int, str]:
        """Exit status and output of one command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\necho '{_END}'$?\n")
        self._process.stdin.flush()
        text = ""
        for line in self._process.stdout:
            before, found, status = line.partition(_END)
            text += before
            if found:
                return int(status), text
        raise AssertionError(f"the shell has ended at: {command}\n{text}")

    def close(self) -> None:
        self._process.communicate()
