"""Code in the documentation is right: settings, baselines, JSON, shell and Python, as each claims to be."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dmimad import cli, config
from dmimad.core.baseline import parse_baseline
from dmimad.settings import sections
from scripts.reference.samples import blocks, language_of

ROOT = Path(__file__).parents[2]
PAGES = (
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    ROOT / "systemd/README.md",
    ROOT / "tests/vm/README.md",
)
SAMPLES = [
    (f"{page.relative_to(ROOT)}-{number}", block)
    for page in sorted(PAGES)
    for number, block in enumerate(blocks(page.read_text("utf-8")))
]


def of(language: str) -> list[Any]:
    return [pytest.param(text, id=name) for name, text in SAMPLES if language_of(text) == language]


def whole(text: str) -> str:
    """What is left out of a sample, as it might be."""
    text = re.sub(r"(sha256|config):([0-9a-f]*)…", lambda match: f"{match[1]}:{match[2]:0<64}", text)
    text = re.sub(r'"(since|first|last)":"…"', r'"\1":"2026-11-22T14:37:14.203Z"', text)
    return text.replace('"template_digest":"…"', f'"template_digest":"{"0" * 40}"')


def test_there_are_samples_of_each_language() -> None:
    """A block that is none of its language any more would not be tested in silence."""
    counts = {
        language: len(of(language))
        for language in ("bash", "console", "ini", "json", "python", "toml", "yaml")
    }
    assert 0 not in counts.values(), counts
    assert counts["bash"] >= 45
    assert counts["toml"] >= 7
    assert counts["json"] >= 8


@pytest.mark.parametrize("text", of("toml"))
def test_settings_and_baselines_are_accepted(text: str) -> None:
    document = tomllib.loads(text)
    if "device" in document:
        assert parse_baseline(whole(text), "sample.toml").entries
    else:
        assert document.keys() <= sections().keys(), "neither settings nor a baseline"
        loaded = config.parse(text.encode(), "/etc/dmimad/dmimad.toml", host_id=lambda: "sample")
        for section, given in document.items():
            for key in given:
                assert getattr(getattr(loaded, section), key) != getattr(sections()[section], key)


@pytest.mark.parametrize("text", of("bash"))
def test_shell_is_shell(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("text", of("yaml"))
def test_settings_of_prometheus_are_accepted(text: str, promtool: str, tmp_path: Path) -> None:
    """All YAML in our pages is Prometheus' own."""
    file = tmp_path / "prometheus.yml"
    file.write_text(text, "utf-8")
    command = [promtool, "check", "config", "--syntax-only", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_programs_are_python() -> None:
    """What begins like a program must be one: otherwise nobody would take it for Python."""
    programs = [
        (name, text) for name, text in SAMPLES if re.match(r"(from \S+ )?import |async def ", text.lstrip())
    ]
    programs += [(name, text) for name, text in SAMPLES if text.startswith('"""')]
    assert programs
    for name, text in programs:
        compile(text, name, "exec")
        assert language_of(text) == "python"


def test_what_replay_prints_is_as_documented(capsys: pytest.CaptureFixture[str]) -> None:
    page = blocks((ROOT / "docs/replay.md").read_text("utf-8"))
    documented = {}
    for text in page:
        if text.startswith("{"):
            sample = json.loads(text.replace("[…]", "[]"))
            documented[sample["type"]] = sample
    path = ROOT / "tests/corpus/systematic-6.1/binary_runtime_measurements"
    assert cli.main(["replay", str(path), "--format", "jsonl", "--pcr", f"sha256={'0' * 64}"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert documented.keys() == {line["type"] for line in lines} - {"finding"} == {"record", "summary"}
    for line in lines:
        if line["type"] in documented:
            assert documented[line["type"]].keys() == line.keys()
    loaded = next(line for line in lines if line.get("active"))
    for member in ("device", "active"):
        assert documented["record"][member].keys() == loaded[member].keys()


DOCUMENTS = {"specversion": "alert.schema.json", "active": "device.schema.json"}


@pytest.mark.parametrize("member", DOCUMENTS)
def test_documents_are_as_their_schemas_demand(member: str) -> None:
    page = blocks((ROOT / "docs/mqtt.md").read_text("utf-8"))
    schema = json.loads(resources.files("dmimad.schemas").joinpath(DOCUMENTS[member]).read_text("utf-8"))
    samples = [json.loads(whole(text)) for text in page if language_of(text) == "json"]
    samples = [sample for sample in samples if member in sample]
    assert samples
    for sample in samples:
        jsonschema.Draft202012Validator(schema).validate(sample)
