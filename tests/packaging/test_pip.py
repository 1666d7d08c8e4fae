"""Wheel and sdist: each installs into an environment of its own, as pipx does it, and the program runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmimad import __version__
from scripts.packages.project import PROJECT
from tests.packaging.systems import pipx_like

if not os.environ.get("DMIMAD_PACKAGES"):
    pytest.skip("installs from the package index: make test-packages", allow_module_level=True)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--outdir", str(place), str(PROJECT)]
    subprocess.run(build, check=True, capture_output=True)
    return place


@pytest.mark.parametrize("pattern", ["dmimad-*.whl", "dmimad-*.tar.gz"])
def test_it_installs_and_runs(distributions: Path, pattern: str, tmp_path: Path) -> None:
    (distribution,) = distributions.glob(pattern)
    assert pipx_like(distribution, tmp_path / "environment").strip() == f"dmimad {__version__}"
