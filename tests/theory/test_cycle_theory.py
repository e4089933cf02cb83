import numpy as np
import pytest

from scpl_ray.analytic import model
from tests.theory import cycle_theory as theory


def gaussian_chain(draws, chains, rounds, n, cycle, real_share=0.0):
    """Refit mean and variance (maximum likelihood) of each chain to its own n draws per round."""
    mean, sd = np.zeros(chains), np.ones(chains)
    pool, path = [], []
    for _ in range(rounds):
        x = draws.normal(mean[:, None], sd[:, None], (chains, n))
        x = np.where(draws.uniform(size=x.shape) < real_share, draws.normal(size=x.shape), x)
        pool = [*pool, x] if cycle == "accumulate" else [x]
        data = np.concatenate(pool, axis=1)
        mean, sd = data.mean(axis=1), data.std(axis=1)
        path.append((np.mean(sd**2), np.mean(mean**2)))
    return np.array(path)


@pytest.mark.parametrize(("rounds", "variance"), [(1, 0.9), (10, 0.34867844010000015), (50, 0.00515377520732012)])
def test_replace(rounds, variance):
    assert theory.replaced_variance(10, rounds) == pytest.approx(variance, abs=1e-12)


def test_replace_broadcasts():
    grid = theory.replaced_variance(np.array([[10], [100]]), np.array([0, 10, 50]))
    np.testing.assert_allclose(grid, [[1, 0.348678, 0.005154], [1, 0.904382, 0.605006]], atol=1e-6)


def test_the_typical_chain_decays_though_the_mean_does_not():
    assert theory.typical_decay(10) == pytest.approx(-0.11520647041674525, abs=1e-12)
    draws = np.random.default_rng(2).normal(size=(40_000, 7)).var(axis=1, ddof=1)
    assert draws.mean() == pytest.approx(1.0, abs=4 * draws.std() / 200)
    assert np.log(draws).mean() == pytest.approx(float(theory.typical_decay(7)), abs=4 * np.log(draws).std() / 200)


def test_accumulate():
    path = theory.accumulated_variance(10, 50)
    wanted = [1.0, 0.9, 0.8775, 0.851502062947372, 0.8451076382143026]
    np.testing.assert_allclose(path[[0, 1, 2, 10, 50]], wanted, atol=1e-12)
    np.testing.assert_allclose(1 - path[[1, 2, 10, 50]], [0.1, 0.1225, 0.148498, 0.154892], atol=1e-6)
    limits = theory.accumulated_variance_limit([10, 100])
    np.testing.assert_allclose(limits, [0.843435857215594, 0.983631643083466], atol=1e-12)
    assert theory.accumulated_variance(10, 200_000)[-1] == pytest.approx(limits[0], abs=1e-5)
    # what is lost is about pi^2 / (6 n) for large n
    assert 1 - theory.accumulated_variance_limit(10_000) == pytest.approx(np.pi**2 / 60_000, rel=1e-3)


def test_gini_simpson_of_categories():
    """The factors of p (1 - p) are those of a variance: 50 draws, 40 rounds."""
    assert theory.replaced_variance(50, 40) == pytest.approx(0.4457, abs=1e-4)
    assert theory.accumulated_variance(50, 40)[-1] == pytest.approx(0.9679, abs=1e-4)


def test_real_anchor():
    np.testing.assert_allclose(
        theory.anchored_moments_limit(0.1, 10), [0.6309963099630997, 0.3690036900369005], atol=1e-9
    )
    path = theory.anchored_moments(0.1, 10, 400)
    assert path[0].tolist() == [1.0, 0.0]
    np.testing.assert_allclose(path[-1], [0.6309963, 0.3690037], atol=1e-6)
    np.testing.assert_allclose(theory.anchored_moments_limit([0.1, 1.0], 10)[1], [0.9, 0.1], atol=1e-12)


@pytest.mark.parametrize(("real_share", "draws"), [(0.05, 7), (0.3, 40), (0.8, 12)])
def test_real_anchor_limits_are_those_of_the_recursion(real_share, draws):
    path = theory.anchored_moments(real_share, draws, 2000)
    np.testing.assert_allclose(theory.anchored_moments_limit(real_share, draws), path[-1], atol=1e-9)


def test_without_an_anchor_the_recursion_collapses_and_has_no_floor():
    path = theory.anchored_moments(0.0, 10, 50)
    np.testing.assert_allclose(path[:, 0], theory.replaced_variance(10, np.arange(51)), atol=1e-12)
    np.testing.assert_allclose(path.sum(axis=1), 1.0)
    with pytest.raises(ValueError, match=r"real_share: 0.0 must lie in \(0, 1\]"):
        theory.anchored_moments_limit(0.0, 10)


@pytest.mark.parametrize(
    ("cycle", "real_share", "rounds"), [("replace", 0.0, 10), ("accumulate", 0.0, 10), ("replace", 0.1, 60)]
)
def test_gaussian_chains_follow_the_recursions(cycle, real_share, rounds):
    chains = 6000
    variance, drift = gaussian_chain(np.random.default_rng(rounds), chains, rounds, 10, cycle, real_share)[-1]
    if cycle == "accumulate":
        a = theory.accumulated_variance(10, rounds)[-1]
        v = 1 - a
    else:
        a, v = theory.anchored_moments(real_share, 10, rounds)[-1]
    assert variance == pytest.approx(a, abs=0.025)
    assert drift == pytest.approx(v, abs=4 * v * np.sqrt(2.5 / chains))


def test_shares_drift_without_any_preference():
    assert theory.replaced_variance(100, 50) == pytest.approx(0.6050060671375364, abs=1e-12)
    draws, share, n, rounds, chains = np.random.default_rng(0), 0.3, 100, 10, 20_000
    p = np.full(chains, share)
    for _ in range(rounds):
        p = draws.binomial(n, p) / n
    sd = float(theory.drift_sd(share, n, rounds))
    assert p.mean() == pytest.approx(share, abs=4 * sd / np.sqrt(chains))
    assert p.std() == pytest.approx(sd, rel=4 * np.sqrt(0.5 / chains) * 1.1)
    assert sd == pytest.approx(np.sqrt(rounds * share * (1 - share) / n), rel=0.03)


def test_anchored_share():
    expected = float(theory.anchored_share_variance(0.3, 0.1, 100))
    assert expected == pytest.approx(0.010600706713780921, abs=1e-12)
    draws, chains = np.random.default_rng(3), 20_000
    p = np.full(chains, 0.3)
    for _ in range(60):
        p = draws.binomial(100, 0.9 * p + 0.1 * 0.3) / 100
    assert p.var() == pytest.approx(expected, rel=4 * np.sqrt(2 / chains) * 1.2)


@pytest.mark.parametrize(
    ("temperature", "rounds", "share"), [(0.9, 5, 0.665223), (0.9, 10, 0.761852), (1.1, 10, 0.539002), (1.0, 10, 0.6)]
)
def test_temperature_amplifies_below_one_only(temperature, rounds, share):
    p = np.array([0.6, 0.4])
    for _ in range(rounds):
        p = model.tempered(p, temperature)
    assert p[0] == pytest.approx(share, abs=1e-6)


def test_greedy_collapses_at_once():
    assert model.tempered([[0.3, 0.36, 0.34], [0.4, 0.4, 0.2]], 0.0).tolist() == [[0, 1, 0], [0.5, 0.5, 0]]
    np.testing.assert_allclose(model.tempered([0.51, 0.49], 1e-3), [1, 0], atol=1e-9)
    with pytest.raises(ValueError, match="temperature: -1 is negative"):
        model.tempered([0.5, 0.5], -1)


def test_bias_of_accumulated_data_with_real_data():
    path = theory.accumulated_bias(1000, 100, 400, 2000)
    wanted = [1.0, 1.266667, 1.453333, 1.802731, 2.116089, 3.109274, 3.956773]
    np.testing.assert_allclose(path[[0, 1, 2, 5, 10, 100, 2000]], wanted, atol=1e-6)
    assert np.all(np.diff(path) > 0) and path[-1] < 5.0
    assert theory.accumulated_bias(1, 100, 100, 20_000)[-1] == pytest.approx(2.0, abs=0.02)
    assert theory.accumulated_bias(10, 5, 5, 50, shift=0.0)[-1] == pytest.approx(1.0)
