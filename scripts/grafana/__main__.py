"""`python -m scripts.grafana`: write the dashboards into `config/grafana/dashboards`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from scripts.grafana import fleet, host

PLACE = Path(__file__).parent.parent.parent / "config/grafana/dashboards"
#: Of Grafana 10.4; later ones take it and bring it up to date themselves.
SCHEMA_VERSION = 39


def texts() -> dict[str, str]:
    """The text of each file."""
    return {"dmimad-fleet.json": _text(fleet.build()), "dmimad-host.json": _text(host.build())}


def _text(builder: dashboard.Dashboard) -> str:
    made = builder.build()
    made.schema_version = SCHEMA_VERSION
    for number, panel in enumerate(made.panels or [], start=1):
        panel.id_val = number  # the builders give none
    return json.dumps(made, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> int:
    PLACE.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        (PLACE / name).write_text(text, "utf-8")
        sys.stdout.write(f"{name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
