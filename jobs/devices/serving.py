"""An engine: it starts, serves an adapter twice alike, sleeps, reads other weights in place, and wakes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from jobs.devices.attempt import Check, CheckError, Report
from jobs.devices.material import POSITIONS, RANK, number_format
from scpl_ray.records import Weights

START, ADAPTER, SLEEP, RELOAD, WAKE = "engine start", "adapter served twice", "sleep", "reload", "wake"
CHECKS = (
    Check(START, "its last lines name the cause; generation.engine=transformers needs no vLLM"),
    Check(ADAPTER, "set generation.refresh=reload"),
    Check(SLEEP, "set placement.gpus=dedicated: engines then need not sleep"),
    Check(RELOAD, "set generation.refresh=adapter, or generation.engine=transformers"),
    Check(WAKE, "set placement.gpus=dedicated: engines then need not wake"),
)
MEMORY_SHARE = 0.4
DEADLINE_S = 420.0
"""Longest time for one of them; a first start compiles kernels."""


def serve(report: Report, rank: int, ranks: int, folder: Path, name: str, on_gpu: bool) -> None:
    """Make the checks with one engine.

    Args:
        report: is told how they came out.
        rank: 0.
        ranks: 1.
        folder: what :func:`jobs.devices.material.make` wrote.
        name: the engine, as ``generation.engine``.
        on_gpu: whether it runs on the first GPU.
    """
    from actors.engines.base import EngineSettings
    from actors.engines.registry import ENGINES

    os.environ.update(ENGINES[name].environment(float(on_gpu)))
    settings = EngineSettings(
        max_prompt_tokens=POSITIONS // 2,
        max_new_tokens=POSITIONS // 4,
        temperature=1.0,
        top_p=1.0,
        adapter_rank=RANK,
        dtype=number_format(on_gpu=on_gpu),
        gpus=float(on_gpu),
        trust_remote_code=False,
        memory_share=MEMORY_SHARE,
        sleeps=on_gpu and ENGINES[name].sleeps,
    )
    engine = ENGINES[name].load()(settings)
    base, other, adapter = folder / "base", folder / "other", folder / "adapter"
    report.passed(START, f"{name} in {settings.dtype}, {_seconds(lambda: engine.load(Weights(0, base))):.1f} s")
    plain, seconds = engine.probe(), []
    answers = []
    for version in (1, 2):
        weights = Weights(version, base, adapter)
        seconds.append(_seconds(lambda weights=weights: engine.load(weights)))  # type: ignore[misc]
        answers.append(engine.probe())
    if answers[0] == plain:
        raise CheckError("with the adapter the model answers as without it")
    if not answers[0].agrees(answers[1], settings.tolerance):
        raise CheckError(f"the same adapter answers {answers[0]} and, served again, {answers[1]}")
    report.passed(ADAPTER, f"{min(seconds):.2f} s each")
    if settings.sleeps:
        asleep = _seconds(engine.sleep)
        report.passed(SLEEP, f"{engine.gave_back / 2**30:.2f} GiB given back in {asleep:.2f} s")
    else:
        report.impossible(SLEEP, "no GPU: an engine has nothing to give back")
    reloading = _seconds(lambda: engine.load(Weights(3, other)))
    there = engine.probe()
    if there == plain:
        raise CheckError("other weights were read, and the model answers as before")
    report.passed(RELOAD, f"{reloading:.2f} s{' from sleep' if settings.sleeps else ''}")
    if not settings.sleeps:
        report.impossible(WAKE, "no GPU: engines do not sleep")
        return
    engine.sleep()
    waking = _seconds(lambda: engine.load(Weights(3, other)))
    if not engine.probe().agrees(there, settings.tolerance):
        raise CheckError("the model answers otherwise than before it slept")
    report.passed(WAKE, f"{waking:.2f} s")


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began
