"""The dashboard shows every exported metric, under the name that Ray gives it."""

import json

from actors.prometheus import COUNTERS, GAUGES
from jobs.grafana import ACROSS, dashboard


def test_every_exported_metric_has_one_panel() -> None:
    found = json.loads(dashboard())
    expressions = [target["expr"] for panel in found["panels"] for target in panel["targets"]]
    wanted = [f"ray_{name}" for name in GAUGES] + [f"ray_{name}_total" for name in COUNTERS]
    assert expressions == [f'{name}{{run=~"$run"}}' for name in wanted]
    for panel in found["panels"]:
        name = "scpl_" + panel["title"].replace(" ", "_")
        labels = GAUGES[name][1] if name in GAUGES else ()
        assert panel["targets"][0]["legendFormat"] == " ".join(f"{{{{{label}}}}}" for label in ("run", *labels))
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in found["panels"]}
    assert len(places) == len(found["panels"]) and len({x for x, _ in places}) == ACROSS
