import numpy as np
import pytest
from scipy.special import expit, logit, softmax

from scpl_ray.config import Experiment
from scpl_ray.feedback.stability import Part, carried_on, estimate_group_map, estimate_loop_map
from tests.theory.closed_forms import LearningCurve, TwoGaussians


def retention(start, risks, sensitivity, newcomers, rounds, rng=None):
    """Paths of lambda' = lambda (1 - c R) + b, shape (S, T + 1, K); whole users are drawn where ``rng`` is given."""
    path = [np.asarray(start, dtype=float)]
    for _ in range(rounds):
        users = path[-1]
        rate = 1 - sensitivity * risks(users / users.sum(axis=-1, keepdims=True))
        if rng is None:
            path.append(users * rate + newcomers)
        else:
            path.append(1.0 * rng.binomial(users.astype(int), rate) + rng.poisson(newcomers, size=users.shape))
    return np.stack(path, axis=1)


def around(centre, seeds, spread=0.01):
    """Different starts around one point, shape (S, K)."""
    return np.array(centre) * np.exp(spread * np.random.default_rng(0).normal(size=(seeds, len(centre))))


STABLE, UNSTABLE, CURVE = TwoGaussians(0.3, 1.0), TwoGaussians(0.1, 1.0), LearningCurve(0.9, 0.2)


def test_expected_paths_of_the_stable_two_gaussians():
    paths = retention(around([22.727273] * 2, 10), STABLE.risks, 0.8, 10, 30)
    found = estimate_group_map(paths, state="arrivals")
    assert found.rho == pytest.approx(0.96, abs=1e-3)
    assert found.verdict == "stable"
    assert found.fixed_point == pytest.approx([22.727273] * 2, rel=1e-3)
    # logs scale rows and columns of the Jacobian by lambda*, which is equal here
    assert found.jacobian == pytest.approx(np.array([[0.76, -0.2], [-0.2, 0.76]]), abs=2e-3)
    by_share = estimate_group_map(paths / paths.sum(axis=-1, keepdims=True), state="shares")
    assert by_share.rho == pytest.approx(0.96, abs=1e-3)
    assert by_share.fixed_point == pytest.approx([0.5, 0.5], abs=1e-3)
    assert by_share.jacobian.shape == (1, 1)


def test_expected_paths_of_the_unstable_two_gaussians():
    found = estimate_group_map(retention(around([35.714286] * 2, 10), UNSTABLE.risks, 0.8, 10, 8), state="arrivals")
    assert found.rho == pytest.approx(1.12, abs=3e-3)
    assert found.verdict == "unstable"
    assert found.low > 1
    assert str(found).startswith("unstable: rho(J) = 1.1")


def test_after_the_runaway_the_loop_is_stable_at_an_unequal_point():
    paths = retention(around([110.91229, 14.08771], 10, spread=0.05), UNSTABLE.risks, 0.8, 10, 20)
    found = estimate_group_map(paths, state="arrivals")
    assert found.verdict == "stable"
    assert found.fixed_point == pytest.approx([110.91229, 14.08771], rel=1e-2)


@pytest.mark.parametrize(
    ("risks", "rounds", "verdict", "rho"), [(STABLE.risks, 60, "stable", 0.96), (UNSTABLE.risks, 15, "unstable", 1.12)]
)
def test_whole_users_of_twenty_seeds(risks, rounds, verdict, rho):
    mass = 1000 / (0.8 * risks(np.array([0.5, 0.5]))[0])
    start = np.full((20, 2), np.round(mass))
    found = estimate_group_map(retention(start, risks, 0.8, 1000, rounds, np.random.default_rng(1)), state="arrivals")
    assert found.verdict == verdict
    assert found.low < rho < found.high


def risk_of_curve(shares):
    return 1 - CURVE.quality(shares)


def test_five_rounds_cannot_tell_a_transient_from_an_instability():
    expected = retention([[60.0, 40.0]], risk_of_curve, 1.0, 5, 50)[0]
    shares = expected[:, 0] / expected.sum(axis=1)
    assert shares[[0, 1, 2, 5, 10, 50]] == pytest.approx(
        [0.6, 0.60585, 0.61039, 0.615421, 0.602281, 0.509677], abs=1e-6
    )
    verdicts = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        paths = retention(np.tile([60, 40], (10, 1)), risk_of_curve, 1.0, 5, 5, rng)
        verdicts.append(estimate_group_map(paths, state="arrivals").verdict)
    assert verdicts.count("cannot tell") >= 95
    assert verdicts.count("unstable") <= 2


def test_a_transient_is_not_taken_for_a_fixed_point_however_many_seeds_show_it():
    rng = np.random.default_rng(2)
    few_rounds = retention(np.tile([60, 40], (2000, 1)), risk_of_curve, 1.0, 5, 5, rng)
    found = estimate_group_map(few_rounds, state="arrivals")
    assert found.distance > 2
    assert found.verdict == "cannot tell"
    without_noise = estimate_group_map(retention(around([60, 40], 20), risk_of_curve, 1.0, 5, 5), state="arrivals")
    assert str(without_noise).startswith("cannot tell in 5 rounds: ")
    many_rounds = retention(np.tile([60, 40], (20, 1)), risk_of_curve, 1.0, 5, 60, rng)
    later = estimate_group_map(many_rounds, state="arrivals")
    assert later.verdict == "stable"
    assert later.low < 0.940195 < later.high


def noisy_linear(jacobian, n_seeds, n_rounds, rng, start=0.2):
    """Shares whose log ratios to the last group follow x' = J x + noise."""
    x = [np.full((n_seeds, len(jacobian)), start)]
    for _ in range(n_rounds):
        x.append(x[-1] @ np.asarray(jacobian).T + 0.1 * rng.normal(size=x[-1].shape))
    x = np.stack(x, axis=1)
    return softmax(np.concatenate([x, np.zeros((*x.shape[:2], 1))], axis=-1), axis=-1)


def test_one_log_ratio_by_hand():
    """The jackknife of the slope of an ordinary regression of each logit on the one before."""
    paths = noisy_linear([[0.8]], 6, 9, np.random.default_rng(6))
    x = logit(paths[..., 0])

    def regress(rows):
        return np.polyfit(rows[:, :-1].ravel(), rows[:, 1:].ravel(), 1)

    slope, intercept = regress(x)
    left_out = np.array([regress(np.delete(x, i, axis=0))[0] for i in range(6)])
    bias = 5 * (left_out.mean() - slope)
    error = np.sqrt(5 / 6 * ((left_out - left_out.mean()) ** 2).sum() + bias**2)
    found = estimate_group_map(paths, state="shares", confidence=0.9)
    assert found.jacobian == pytest.approx(np.array([[slope]]))
    assert found.rho == pytest.approx(slope - bias)
    # t of .95 with 5 degrees of freedom
    assert (found.low, found.high) == pytest.approx((found.rho - 2.0150484 * error, found.rho + 2.0150484 * error))
    rest = intercept / (1 - slope)
    assert found.fixed_point == pytest.approx([expit(rest), expit(-rest)])
    assert found.distance == pytest.approx(abs(rest - x.mean()) / x.std(ddof=1))
    assert (found.rounds, found.seeds, found.confidence) == (9, 6, 0.9)


@pytest.mark.parametrize(
    "jacobian", [[[0.9]], [[1.0]], np.diag([1.0, 0.9]), np.eye(2), 0.9 * np.array([[0.8, -0.6], [0.6, 0.8]])]
)
def test_the_interval_holds_the_truth_and_verdicts_keep_their_level(jacobian):
    rng = np.random.default_rng(3)
    rho = np.abs(np.linalg.eigvals(jacobian)).max()
    found = [estimate_group_map(noisy_linear(jacobian, 10, 10, rng), state="shares") for _ in range(300)]
    # nominal 95%, standard error 1.3%
    assert np.mean([f.low <= rho <= f.high for f in found]) >= 0.91
    if rho == 1:
        assert np.mean([f.verdict == "stable" for f in found]) <= 0.07
        assert np.mean([f.verdict == "unstable" for f in found]) <= 0.07


def test_rho_does_not_depend_on_the_order_of_groups_or_seeds():
    rng = np.random.default_rng(4)
    paths = noisy_linear(np.diag([0.9, 0.5]), 8, 12, rng)
    found = estimate_group_map(paths, state="shares")
    other = estimate_group_map(paths[::-1, :, [2, 0, 1]], state="shares")
    assert (other.rho, other.low, other.distance) == pytest.approx((found.rho, found.low, found.distance))
    assert other.fixed_point == pytest.approx(found.fixed_point[[2, 0, 1]])
    assert other.verdict == found.verdict


def test_what_cannot_be_estimated_is_said_and_not_guessed():
    rng = np.random.default_rng(5)
    static = estimate_group_map(np.full((5, 6, 2), 0.5), state="shares")
    assert static.verdict == "cannot tell"
    assert "repeat one path" in static.reason
    assert np.isnan([static.rho, static.low, static.high, static.distance]).all()
    assert static.fixed_point.shape == (2,)
    assert static.jacobian.shape == (1, 1)
    repeated = estimate_group_map(np.repeat(noisy_linear([[0.9]], 1, 8, rng), 4, axis=0), state="shares")
    assert "repeat one path" in repeated.reason
    # one transition from a common start: nothing varies before it
    short = estimate_group_map(noisy_linear([[0.9]], 6, 1, rng), state="shares")
    assert "leave a direction of the state untried" in short.reason


def test_a_share_that_grows_at_a_constant_pace_has_no_fixed_point():
    # constant retention without newcomers: the logit moves by ln(nu_1 / nu_2) per round, so rho is 1
    starts = around([60.0, 40.0], 6, spread=0.1)
    paths = np.stack([starts * np.array([0.9, 0.7]) ** t for t in range(6)], axis=1)
    found = estimate_group_map(paths / paths.sum(axis=-1, keepdims=True), state="shares")
    assert found.rho == pytest.approx(1.0)
    assert found.distance == np.inf
    assert np.isnan(found.fixed_point).all()
    assert found.verdict == "cannot tell"


def measured(jacobian, n_seeds, n_rounds, draws, rng):
    """Shares of :func:`noisy_linear` as fractions of a number of draws."""
    return rng.multinomial(draws, noisy_linear(jacobian, n_seeds, n_rounds, rng)) / draws


def test_noise_of_unknown_size_is_not_taken_for_stability():
    rng = np.random.default_rng(7)
    wrong = {"as before": 0, "draws unknown": 0, "draws known": 0}
    for _ in range(60):
        paths = measured([[1.0]], 20, 10, 100, rng)
        wrong["as before"] += estimate_group_map(paths, state="shares", draws=np.inf).verdict == "stable"
        wrong["draws unknown"] += estimate_group_map(paths, state="shares").verdict == "stable"
        wrong["draws known"] += estimate_group_map(paths, state="shares", draws=100).verdict == "stable"
    assert wrong["as before"] >= 40
    assert wrong["draws unknown"] <= 5 and wrong["draws known"] <= 5
    one = estimate_group_map(noisy_linear([[0.1]], 200, 1, rng) * 1.0, state="shares")
    assert one.verdict == "cannot tell"


def test_noise_of_known_size_is_taken_out():
    """The slope of an errors-in-variables regression by hand."""
    rng = np.random.default_rng(8)
    paths = measured([[0.8]], 200, 10, 400, rng)
    found = estimate_group_map(paths, state="shares", draws=400)
    smoothed = (paths * 400 + 0.5) / 401
    x = np.log(smoothed[..., 0] / smoothed[..., 1])
    noise = (1 / (401 * smoothed[:, :-1])).sum(axis=-1).mean()
    before, after = x[:, :-1].ravel(), x[:, 1:].ravel()
    slope = np.cov(before, after, bias=True)[0, 1] / (before.var() - noise)
    # users react to what is measured, so that the map of the first part is the plain one, and the interval holds both
    plain = np.cov(before, after, bias=True)[0, 1] / before.var()
    assert found.jacobian == pytest.approx(np.array([[plain]]))
    assert found.low < plain < slope < found.high
    kinds = estimate_loop_map([Part("shares", noisy_linear([[0.1]], 200, 10, rng)), Part("kinds", paths, 400)])
    assert kinds.jacobian[1, 1] == pytest.approx(slope, abs=0.02)
    assert kinds.low < 0.8 < kinds.high and kinds.state == "shares and kinds"
    assert str(kinds).startswith("stable: rho(J) = ") and "of shares and kinds, 200 seeds" in str(kinds)


def test_a_share_map_that_is_stable_proves_nothing_about_the_kinds():
    rng = np.random.default_rng(9)
    both = noisy_linear([[0.4, 0.3], [0.0, 1.1]], 20, 10, rng)
    shares = both[..., [0, 2]] / both[..., [0, 2]].sum(axis=-1, keepdims=True)
    kinds = both[..., [1, 2]] / both[..., [1, 2]].sum(axis=-1, keepdims=True)
    found = estimate_loop_map([Part("shares", shares), Part("kinds", kinds)])
    assert found.low < 1.1 < found.high and found.verdict != "stable"
    assert found.fixed_point.shape == (2,) and found.jacobian.shape == (2, 2)


def test_kinds_that_never_move_are_no_direction():
    rng = np.random.default_rng(10)
    shares = noisy_linear([[0.5]], 10, 10, rng)
    still = np.broadcast_to([0.3, 0.7], shares.shape)
    found = estimate_loop_map([Part("shares", shares), Part("kinds", still)])
    assert found.rho == estimate_group_map(shares, state="shares").rho
    assert found.jacobian.shape == (1, 1)


def test_noise_that_hides_all_movement_is_said():
    rng = np.random.default_rng(11)
    counted = rng.multinomial(50, [0.5, 0.5], (10, 11)) / 50
    parts = [Part("shares", noisy_linear([[0.5]], 10, 10, rng)), Part("kinds", counted, 50)]
    found = estimate_loop_map(parts)
    assert "noise of the measurements is nearly as large as all that moved" in found.reason
    assert np.isnan(found.rho)


@pytest.mark.parametrize(
    ("changes", "whole", "carried"),
    [
        ({"loop": {"kind": "retraining"}}, False, ""),
        ({"loop": {"kind": "incremental"}}, False, "loop.kind=incremental"),
        ({"loop": {"kind": "incremental"}}, True, ""),
        ({"loop": {"kind": "retraining"}, "cycle": {"kind": "accumulate"}}, True, "cycle.kind=accumulate"),
        ({"loop": {"kind": "retraining"}, "cycle": {"kind": "subsample"}}, False, "cycle.kind=subsample"),
        ({"loop": {"kind": "retraining"}, "cycle": {"kind": "window", "window_rounds": 2}}, True, "cycle.kind=window"),
        ({"loop": {"kind": "retraining"}, "cycle": {"kind": "window", "window_rounds": 1}}, True, ""),
    ],
)
def test_what_a_loop_carries_on(changes, whole, carried):
    found = carried_on(Experiment.model_validate(changes), whole_policy=whole)
    assert carried in found and bool(found) == bool(carried)


def test_shares_are_not_all_that_retention_passes_on():
    def found(rule, *, alone):
        config = Experiment.model_validate({"loop": {"kind": "retraining"}, "feedback": {"rule": rule}})
        return carried_on(config, whole_policy=False, shares_alone=alone)

    assert found("retention", alone=True) == (
        "feedback.rule=retention passes on how many users there are, and not shares alone"
    )
    assert found("retention", alone=False) == found("softmax", alone=True) == ""
    # the rule of a package that is not installed where results are read
    assert found("theirs", alone=True).startswith("feedback.rule=theirs may pass on how many users")


def test_bad_parts_are_refused():
    rng = np.random.default_rng(12)
    shares = noisy_linear([[0.5]], 4, 4, rng)
    for parts, message in (
        ([], "parts: "),
        ([Part("shares", shares), Part("kinds", shares[:3])], "parts: .* seeds and rounds"),
        ([Part("shares", shares), Part("kinds", shares, 0)], "draws: of kinds hold 0"),
        ([Part("shares", shares), Part("kinds", np.tile([0.0, 1.0], (4, 5, 1)))], "paths: a number is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            estimate_loop_map(parts)
    with pytest.raises(ValueError, match="draws: of shares hold 0"):
        estimate_group_map(shares, state="shares", draws=0)


@pytest.mark.parametrize(
    ("paths", "state", "confidence", "message"),
    [
        (np.full((2, 3), 0.5), "shares", 0.95, r"paths: shape \(2, 3\)"),
        (np.full((1, 3, 2), 0.5), "shares", 0.95, r"paths: shape \(1, 3, 2\)"),
        (np.full((2, 1, 2), 0.5), "shares", 0.95, r"paths: shape \(2, 1, 2\)"),
        (np.full((2, 3, 1), 1.0), "shares", 0.95, r"paths: shape \(2, 3, 1\)"),
        (np.tile([0.0, 1.0], (2, 3, 1)), "shares", 0.95, "paths: a number is 0, negative"),
        (np.tile([np.nan, 1.0], (2, 3, 1)), "shares", 0.95, "paths: a number is 0, negative or not finite"),
        (np.full((2, 3, 2), 0.4), "shares", 0.95, "paths: .* sums to 0.8"),
        (np.full((2, 3, 2), 0.5), "weights", 0.95, "state: 'weights' must be 'shares' or 'arrivals'"),
        (np.full((2, 3, 2), 0.5), "shares", 1.0, "confidence: 1.0 must lie"),
    ],
)
def test_bad_input_names_field_value_and_rule(paths, state, confidence, message):
    with pytest.raises(ValueError, match=message):
        estimate_group_map(paths, state=state, confidence=confidence)
