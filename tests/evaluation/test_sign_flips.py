import tracemalloc

import numpy as np
import pytest

from scpl_ray import seeds
from scpl_ray.evaluation import sign_flips


def test_a_test_of_many_seeds_holds_few_signs_at_once() -> None:
    differences = np.random.default_rng(0).normal(0.05, 1.0, (3, 3000))
    tracemalloc.start()
    sign_flips.flip_p(differences)
    sign_flips.joint_p(differences)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 200e6


@pytest.mark.parametrize("n_seeds", [6, 14, 15, 40])
def test_p_values_are_those_of_all_patterns_at_once(n_seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(n_seeds).normal(0.3, 1.0, (4, n_seeds))
    if n_seeds <= sign_flips.EXACT_UP_TO:
        signs = 1.0 - 2.0 * ((np.arange(2 ** (n_seeds - 1))[:, None] >> np.arange(n_seeds)) & 1)
    else:
        drawn = seeds.generator(n_seeds, "sign patterns").integers(2, size=(sign_flips.DRAWN, n_seeds))
        signs = np.concatenate([np.ones((1, n_seeds)), 1.0 - 2.0 * drawn])
    sums = np.abs(differences @ signs.T)
    expected = (sums >= sums[:, :1] * (1 - 1e-12)).mean(axis=1)
    joint = sign_flips.joint_p(differences)
    for chunk in (sign_flips.CHUNK, 999):
        monkeypatch.setattr(sign_flips, "CHUNK", chunk)
        assert sign_flips.flip_p(differences).tolist() == expected.tolist()
        assert sign_flips.joint_p(differences).tolist() == joint.tolist()
    assert sign_flips.smallest_p(n_seeds) == 1.0 / len(signs)
