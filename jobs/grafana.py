"""A Grafana dashboard of the metrics that a run exports; ``python -m jobs.docs`` writes it to ``docs/grafana.json``."""

from __future__ import annotations

import json
from typing import Any

from actors.prometheus import COUNTERS, GAUGES

PREFIX = "ray_"
"""What Ray puts before every name."""
TITLE = "scpl_ray: a self-consuming performative loop"
WIDTH, HEIGHT, ACROSS = 12, 8, 2


def dashboard() -> str:
    """The dashboard as JSON: one panel per metric, for the runs that are chosen at its top."""
    metrics = {name: (text, labels) for name, (text, labels) in GAUGES.items()}
    metrics |= {name: (text, ()) for name, text in COUNTERS.items()}
    panels = [_panel(index, name, text, labels) for index, (name, (text, labels)) in enumerate(metrics.items())]
    source = {"type": "datasource", "name": "source", "label": "Prometheus", "query": "prometheus"}
    run = {
        "type": "query",
        "name": "run",
        "label": "run",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "query": {"query": f"label_values({PREFIX}scpl_round, run)", "refId": "runs"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
    }
    found = {
        "title": TITLE,
        "uid": "scpl-ray",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source, run]},
        "panels": panels,
    }
    return json.dumps(found, indent=1) + "\n"


def _panel(index: int, name: str, text: str, labels: tuple[str, ...]) -> dict[str, Any]:
    exported = PREFIX + name + ("_total" if name in COUNTERS else "")
    shown = " ".join(f"{{{{{label}}}}}" for label in ("run", *labels))
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": name.removeprefix("scpl_").replace("_", " "),
        "description": text,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": WIDTH * (index % ACROSS), "y": HEIGHT * (index // ACROSS)},
        "targets": [{"refId": "A", "expr": f'{exported}{{run=~"$run"}}', "legendFormat": shown}],
    }
