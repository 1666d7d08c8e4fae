"""What the tests of the page are given has the shape of what the core makes."""

from __future__ import annotations

import json
from typing import Any

from tests.page.documents import alert, change, detail, device, recent, row, status
from tests.page.scene import NOW, attacked


def shape(document: Any) -> Any:
    return sorted(document) if isinstance(document, dict) else document


def real(document: object) -> Any:
    return json.loads(json.dumps(document))


def test_a_status() -> None:
    scene = attacked()
    made = real(scene.monitor.status(NOW, scene.surroundings()))
    assert shape(status()) == shape(made)
    for name in ("list", "witnesses", "outbox", "store", "settings", "baseline", "firing"):
        assert shape(status()[name]) == shape(made[name])
    assert shape(alert()) == shape(made["alerts"][0])
    assert shape(recent()) == shape(made["recent"][0])
    assert shape(device()) == shape(made["devices"][0])
    assert shape(device()["active"]) == shape(made["devices"][0]["active"])


def test_a_detail() -> None:
    scene = attacked()
    made = real(scene.monitor.detail("253:5", NOW, scene.surroundings()))
    assert shape(detail()) == shape(made)
    assert shape(change("", "active")) == shape(made["history"][0])
    assert shape(detail()["tables"][0]) == shape(made["tables"][0])
    assert shape(row("a", None, None)) == shape(made["tables"][0]["rows"][0])
