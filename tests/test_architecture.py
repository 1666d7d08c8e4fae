"""The rings of docs/architecture.md: imports point inward, adapters do not know each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dmimad

ROOT = Path(dmimad.__file__).parent
#: What the pure core may import beside itself: nothing that reads a clock, a file or the network.
CORE_MAY_IMPORT = {
    "__future__",
    "binascii",
    "bisect",
    "collections",
    "dataclasses",
    "datetime",  # to write a given time as text
    "difflib",
    "enum",
    "fnmatch",
    "functools",
    "hashlib",
    "heapq",
    "ipaddress",
    "itertools",
    "json",
    "operator",
    "re",
    "struct",
    "tomllib",
    "typing",
    "urllib.parse",
}
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def adapter_of(module: str) -> str:
    """``dmimad.adapters.mqtt.link`` belongs to the adapter ``mqtt``."""
    return module.split(".")[2]


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] == "core"], ids=str)
def test_the_core_imports_nothing_of_the_outside(path: Path) -> None:
    for module in imports_of(ROOT / path):
        allowed = (module + ".").startswith("dmimad.core.") or module in CORE_MAY_IMPORT
        assert allowed or module.split(".")[0] == "collections", f"{path} imports {module}"


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] == "adapters"], ids=str)
def test_adapters_know_the_core_and_not_each_other(path: Path) -> None:
    own = path.parts[1].removesuffix(".py")
    for module in imports_of(ROOT / path):
        if module.startswith("dmimad."):
            fine = module.startswith(("dmimad.core.", "dmimad.system.")) or (
                module.startswith("dmimad.adapters.") and adapter_of(module) == own
            )
            assert fine, f"{path} imports {module}"


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] == "system"], ids=str)
def test_what_adapters_share_knows_the_core_alone(path: Path) -> None:
    for module in imports_of(ROOT / path):
        assert not module.startswith("dmimad.") or module.startswith("dmimad.core."), (
            f"{path} imports {module}"
        )


SUBSCRIBER_MAY_IMPORT = ("core", "subscriber", "adapters.keys", "adapters.mqtt")
#: Of the subscriber's modules, those that connect or read files.
SUBSCRIBER_OUTSIDE = {"__init__.py", "connection.py", "trust.py"}


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] == "subscriber"], ids=str)
def test_a_subscriber_knows_nothing_of_the_daemon(path: Path) -> None:
    for module in imports_of(ROOT / path):
        ours = (module + ".").startswith(tuple(f"dmimad.{name}." for name in SUBSCRIBER_MAY_IMPORT))
        assert ours or not module.startswith("dmimad."), f"{path} imports {module}"
        if path.name not in SUBSCRIBER_OUTSIDE:
            assert ours or module in CORE_MAY_IMPORT or module == "collections.abc", (
                f"{path} imports {module}"
            )
            assert not module.startswith("dmimad.adapters."), f"{path} imports {module}"


def test_settings_know_the_core_alone() -> None:
    ours = {
        name: {module for module in imports_of(ROOT / name) if module.startswith("dmimad")}
        for name in ("config.py", "settings.py")
    }
    assert ours == {
        "config.py": {"dmimad.core.errors", "dmimad.core.transport", "dmimad.settings"},
        "settings.py": {"dmimad.core.transport"},
    }


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    assert not tree.body or ast.get_docstring(tree), f"{path} has no docstring"
