"""Metrics: latency percentiles over the last minute, temperatures only of readable sensors."""

from __future__ import annotations

from pathlib import Path

from edge.contract.metrics import Percentiles
from edge.line.latencies import MAX_PARTS, WINDOW_S, Latencies
from edge.messages import Timings
from edge.system.sensors import temperatures_c


def test_percentiles_are_of_the_last_minute_and_none_without_a_part() -> None:
    now_s = 100.0
    latencies = Latencies(lambda: now_s)
    nothing = Percentiles(p50_ms=None, p99_ms=None)
    assert latencies.percentiles().engine == nothing
    latencies.add(Timings(engine_ms=1000.0))
    now_s += WINDOW_S + 1
    for ms in range(1, 101):
        latencies.add(Timings(queue_ms=0.5, engine_ms=float(ms)))
    stages = latencies.percentiles()
    assert stages.engine == Percentiles(p50_ms=50.0, p99_ms=99.0)
    assert stages.queue == Percentiles(p50_ms=0.5, p99_ms=0.5)
    assert stages.inspect == stages.engine
    now_s += WINDOW_S + 1
    assert latencies.percentiles().engine == nothing


def test_a_fast_line_does_not_fill_the_memory() -> None:
    latencies = Latencies(lambda: 0.0)
    for ms in range(MAX_PARTS + 10):
        latencies.add(Timings(engine_ms=float(ms)))
    assert latencies.percentiles().engine.p50_ms == 10 + MAX_PARTS / 2 - 1


def test_temperatures_have_the_names_of_their_zones_and_an_unreadable_sensor_is_none(tmp_path: Path) -> None:
    for number, (name, temp) in enumerate([("cpu-thermal", "51500\n"), ("gpu-thermal", None), ("cpu-thermal", "x")]):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "type").write_text(f"{name}\n")
        if temp is not None:
            (zone / "temp").write_text(temp)
    (tmp_path / "cooling_device0").mkdir()
    assert temperatures_c(tmp_path) == {"cpu-thermal": 51.5, "gpu-thermal": None, "cpu-thermal thermal_zone2": None}
    assert temperatures_c(tmp_path / "absent") == {}
