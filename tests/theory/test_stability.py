import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scpl_ray.analytic import model
from scpl_ray.feedback import formulas
from tests.theory import closed_forms
from tests.theory.closed_forms import LearningCurve, TwoGaussians


def walk(rule, state, rounds):
    path = [np.asarray(state, dtype=float)]
    for _ in range(rounds):
        path.append(rule(path[-1]))
    return np.array(path)


def numerical_jacobian(rule, point, h=1e-6):
    columns = [(rule(point + h * e) - rule(point - h * e)) / (2 * h) for e in np.eye(len(point))]
    return np.array(columns).T


def linear_retention(world, sensitivity, newcomers):
    """The map of masses that the feedback rule itself makes of this instance."""

    def rule(masses):
        risk = world.risks(masses / masses.sum())
        return formulas.retention(masses, formulas.retention_rate(risk, "linear", sensitivity), newcomers)

    return rule


def learning_curve_retention(curve, sensitivity, newcomers):
    def rule(masses):
        risk = 1 - curve.quality(masses / masses.sum())
        return formulas.retention(masses, formulas.retention_rate(risk, "linear", sensitivity), newcomers)

    return rule


# constant retention -------------------------------------------------------------------------------------------------


def test_fixed_points_of_constant_retention():
    point = model.retention_fixed_point([0.9, 0.7], [10, 10])
    np.testing.assert_allclose(point, [100, 33.333333], atol=1e-6)
    assert point[0] / point.sum() == pytest.approx(0.75)
    point = model.retention_fixed_point([0.95, 0.9, 0.8], 5)
    np.testing.assert_allclose(point, [100, 50, 25], atol=1e-9)
    np.testing.assert_allclose(point / point.sum(), [0.571429, 0.285714, 0.142857], atol=1e-6)


@pytest.mark.parametrize(
    ("rounds", "masses"),
    [(0, (60, 40)), (1, (64, 38)), (2, (67.6, 36.6)), (5, (76.3804, 34.4538)), (900, (100, 100 / 3))],
)
def test_path_of_constant_retention(rounds, masses):
    np.testing.assert_allclose(closed_forms.retention_path([60, 40], [0.9, 0.7], 10, rounds), masses, atol=1e-6)


def test_path_is_the_rule_iterated_also_where_nobody_leaves():
    rate = np.array([1.0, 0.8, 0.0])
    path = walk(lambda m: formulas.retention(m, rate, 3.0), [10.0, 20.0, 30.0], 7)
    for t in (1, 3, 7):
        np.testing.assert_allclose(closed_forms.retention_path([10, 20, 30], rate, 3.0, t), path[t], atol=1e-9)
    assert path[7, 0] == pytest.approx(31)


def test_path_without_newcomers():
    masses = closed_forms.retention_path([60, 40], [0.9, 0.7], 0.0, 10)
    assert masses[0] / masses.sum() == pytest.approx(0.948759, abs=1e-6)


@pytest.mark.parametrize("rate", [1.0, 1.2, -0.1])
def test_no_fixed_point_without_leaving(rate):
    with pytest.raises(ValueError, match=r"rate: .* must lie in"):
        model.retention_fixed_point([rate, 0.5], 1.0)


def test_spectral_radius_is_not_the_norm():
    matrix = np.array([[0.5, 2.0], [0.0, 0.5]])
    assert model.spectral_radius(matrix) == pytest.approx(0.5)
    assert np.linalg.norm(matrix, 2) == pytest.approx(2.118033988749895)
    # complex eigenvalues count by their modulus, and a batch is its members
    rotation = 1.1 * np.array([[0.0, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(model.spectral_radius([matrix, rotation]), [0.5, 1.1])


# two Gaussians ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "mass", "eigenvalues"), [(0.3, 22.727273, (0.56, 0.96)), (0.1, 35.714286, (0.72, 1.12))]
)
def test_two_gaussians_symmetric_point(noise, mass, eigenvalues):
    world, sensitivity, newcomers = TwoGaussians(noise, 1.0), 0.8, 10.0
    point = np.full(2, world.fair_mass(sensitivity, newcomers))
    assert point[0] == pytest.approx(mass, abs=1e-6)
    np.testing.assert_allclose(world.linear_eigenvalues(sensitivity), eigenvalues, atol=1e-12)
    rule = linear_retention(world, sensitivity, newcomers)
    np.testing.assert_allclose(rule(point), point, atol=1e-9)
    jacobian = world.jacobian(point, 1 - sensitivity * world.risks([0.5, 0.5]), [-sensitivity] * 2)
    np.testing.assert_allclose(sorted(np.linalg.eigvals(jacobian)), eigenvalues, atol=1e-9)
    np.testing.assert_allclose(jacobian, numerical_jacobian(rule, point), atol=1e-6)


def test_general_jacobian_away_from_symmetry():
    world, sensitivity = TwoGaussians(0.05, 0.9), 0.7
    masses = np.array([30.0, 12.0])
    rate = 1 - sensitivity * world.risks(masses / masses.sum())
    jacobian = world.jacobian(masses, rate, [-sensitivity] * 2)
    np.testing.assert_allclose(
        jacobian, numerical_jacobian(linear_retention(world, sensitivity, 5.0), masses), atol=1e-6
    )


def test_general_jacobian_with_several_parameters():
    """Three groups with quadratic risks in two parameters, against finite differences of the whole map."""
    centres, curvatures = np.array([[0.0, 0.0], [0.6, 0.1], [0.2, 0.5]]), np.array([[1.0, 0.4], [0.5, 1.2], [0.8, 0.8]])
    kappa = 0.9

    def optimum(masses):
        weights = masses[:, None] * curvatures
        return (weights * centres).sum(axis=0) / weights.sum(axis=0)

    def risks(theta):
        return (curvatures * (theta - centres) ** 2).sum(axis=1)

    def rule(masses):
        rate = formulas.retention_rate(risks(optimum(masses)), "exponential", kappa)
        return formulas.retention(masses, rate, 4.0)

    masses = np.array([20.0, 8.0, 13.0])
    theta = optimum(masses)
    rate = np.exp(-kappa * risks(theta))
    jacobian = closed_forms.retention_jacobian(
        masses, rate, -kappa * rate, 2 * curvatures * (theta - centres), np.diag(2 * masses @ curvatures)
    )
    np.testing.assert_allclose(jacobian, numerical_jacobian(rule, masses), atol=1e-7)


@pytest.mark.parametrize(
    ("noise", "shares"),
    [
        (0.3, [0.495, 0.4952, 0.495924, 0.496676, 0.49779, 0.499351, 0.499916, 0.5]),
        (0.1, [0.495, 0.4944, 0.491191, 0.484486, 0.452241, 0.155241, 0.113737, 0.112702]),
    ],
)
def test_two_gaussians_trajectories(noise, shares):
    world = TwoGaussians(noise, 1.0)
    start = world.fair_mass(0.8, 10.0) * np.array([1.01, 0.99])
    path = walk(linear_retention(world, 0.8, 10.0), start, 400)
    minority = path[[0, 1, 5, 10, 20, 50, 100, 400], 1] / path[[0, 1, 5, 10, 20, 50, 100, 400]].sum(axis=1)
    np.testing.assert_allclose(minority, shares, atol=1e-6)
    if noise == 0.1:
        np.testing.assert_allclose(path[-1], [110.91229, 14.08771], atol=1e-5)
        np.testing.assert_allclose(world.risks(path[-1] / path[-1].sum()) - noise, [0.0127017, 0.7872983], atol=1e-6)
        np.testing.assert_allclose(world.risks(path[-1] / path[-1].sum()), [0.112702, 0.887298], atol=1e-6)
    else:
        np.testing.assert_allclose(path[-1], [22.72727, 22.72727], atol=1e-4)
        np.testing.assert_allclose(world.risks(path[-1] / path[-1].sum()), [0.55, 0.55], atol=1e-6)


@pytest.mark.parametrize("noise", [0.2, 0.24, 0.26, 0.3])
def test_retention_is_unstable_exactly_where_the_spectral_radius_exceeds_one(noise):
    world, sensitivity = TwoGaussians(noise, 1.0), 0.8
    point = np.full(2, world.fair_mass(sensitivity, 10.0))
    radius = model.spectral_radius(world.jacobian(point, 1 - sensitivity * world.risks([0.5, 0.5]), [-sensitivity] * 2))
    path = walk(linear_retention(world, sensitivity, 10.0), point * [1.01, 0.99], 500)
    gap = np.abs(path[:, 0] - path[:, 1]) / path.sum(axis=1)
    assert (radius > 1) == (noise < 0.25) == (gap[-1] > 2 * gap[0])
    # the gap grows by the radius per round while it is small
    assert gap[2] / gap[1] == pytest.approx(radius, abs=1e-3)


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2, 0.24])
def test_group_balanced_training_removes_the_instability(noise):
    world = TwoGaussians(noise, 1.0)
    assert max(world.linear_eigenvalues(0.8)) > 1
    risk = world.risks([0.5, 0.5])  # theta = d / 2 whatever the masses
    rate = formulas.retention_rate(risk, "linear", 0.8)
    jacobian = closed_forms.balanced_training_jacobian(rate)
    assert np.array_equal(jacobian, np.diag(rate))
    assert model.spectral_radius(jacobian) < 1
    start = world.fair_mass(0.8, 10.0) * np.array([1.5, 0.5])
    path = walk(lambda m: formulas.retention(m, rate, 10.0), start, 400)
    assert path[-1, 1] / path[-1].sum() == pytest.approx(0.5, abs=1e-6)


def test_exponential_retention_is_unstable_where_users_care_little():
    critical = closed_forms.critical_exponential_sensitivity()
    assert critical == pytest.approx(1.2564312086261666, abs=1e-12)
    world = TwoGaussians(0.0, 2.0)  # d^2 / 4 = 1: the sensitivity is x
    assert world.exponential_eigenvalue(critical) == pytest.approx(1.0)
    assert world.exponential_eigenvalue(0.01) > 1
    assert world.exponential_eigenvalue(critical - 0.01) > 1 > world.exponential_eigenvalue(critical + 0.01)
    assert world.exponential_eigenvalue(0.7) == pytest.approx(np.exp(-0.7) * 2.4)


def test_exponential_eigenvalue_is_that_of_the_map():
    world, kappa, newcomers = TwoGaussians(0.15, 1.3), 0.9, 7.0
    rate = np.exp(-kappa * world.fair_risk)
    point = np.full(2, newcomers / (1 - rate))

    def rule(masses):
        risk = world.risks(masses / masses.sum())
        return formulas.retention(masses, formulas.retention_rate(risk, "exponential", kappa), newcomers)

    eigenvalues = np.sort(np.linalg.eigvals(numerical_jacobian(rule, point)))
    np.testing.assert_allclose(eigenvalues, sorted([rate, world.exponential_eigenvalue(kappa)]), atol=1e-6)


@pytest.mark.parametrize("sensitivity", [0.0, 2.0])
def test_clipped_rates_have_no_closed_form(sensitivity):
    world = TwoGaussians(0.5, 1.0)
    with pytest.raises(ValueError, match=r"sensitivity: .* must lie in"):
        world.fair_mass(sensitivity, 1.0)
    with pytest.raises(ValueError, match=r"sensitivity: .* must lie in"):
        world.linear_eigenvalues(sensitivity)


# learning curve -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ceiling", "exponent", "sensitivity", "n_groups", "contrast", "stable"),
    [(0.9, 0.2, 1.0, 2, 0.940195, True), (1.0, 0.5, 0.8, 2, 1.048528, False), (1.0, 0.5, 0.8, 3, 0.892820, True)],
)
def test_learning_curve_eigenvalues(ceiling, exponent, sensitivity, n_groups, contrast, stable):
    curve = LearningCurve(ceiling, exponent)
    eigenvalues = curve.eigenvalues(sensitivity, n_groups)
    np.testing.assert_allclose(eigenvalues[1:], contrast, atol=1e-6)
    assert curve.is_stable(n_groups) == stable == (model.spectral_radius(np.diag(eigenvalues)) < 1)
    jacobian = curve.jacobian(np.full(n_groups, 1 / n_groups), sensitivity)
    np.testing.assert_allclose(sorted(np.linalg.eigvals(jacobian)), sorted(eigenvalues), atol=1e-9)


def test_learning_curve_numbers():
    assert LearningCurve(0.9, 0.2).fair_quality(2) == pytest.approx(0.783496, abs=1e-6)
    np.testing.assert_allclose(LearningCurve(1.0, 0.5).eigenvalues(0.8, 3), [0.66188, 0.892820, 0.892820], atol=1e-6)


def test_learning_curve_runs_away_from_one_percent():
    curve, newcomers = LearningCurve(1.0, 0.5), 5.0
    mass = newcomers / (0.8 * (1 - curve.fair_quality(2)))
    path = walk(learning_curve_retention(curve, 0.8, newcomers), mass * np.array([1.01, 0.99]), 4000)
    shares = path[:, 0] / path.sum(axis=1)
    np.testing.assert_allclose(shares[[50, 100, 2000]], [0.55287, 0.814829, 0.998534], atol=1e-6)
    # the minority goes on losing, roughly like 1 / t: the limit is 1
    assert 0.4 < (1 - shares[4000]) / (1 - shares[2000]) < 0.5


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(0.05, 1.0), min_size=2, max_size=8),
    st.floats(0.3, 1.0),
    st.floats(0.0, 0.9),
    st.floats(0.1, 1.0),
)
def test_learning_curve_jacobian_is_the_maps(masses, ceiling, exponent, sensitivity):
    curve, masses = LearningCurve(ceiling, exponent), 100 * np.array(masses)
    jacobian = curve.jacobian(masses / masses.sum(), sensitivity)
    rule = learning_curve_retention(curve, sensitivity, 5.0)
    np.testing.assert_allclose(jacobian, numerical_jacobian(rule, masses, h=1e-5), atol=1e-6)


# softmax choice -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coupling", "n_groups", "inertia", "noise", "eigenvalue"),
    [(3, 4, 0, 0, 0.75), (5, 4, 0, 0, 1.25), (5, 4, 0, 0.3, 0.875), (-3, 2, 0.5, 0, -0.25), (3, 2, 0, 0, 1.5)],
)
def test_softmax_choice_eigenvalue(coupling, n_groups, inertia, noise, eigenvalue):
    assert closed_forms.softmax_choice_eigenvalue(coupling, n_groups, inertia, noise) == pytest.approx(eigenvalue)
    jacobian = numerical_jacobian(
        lambda s: formulas.softmax_choice(s, s, coupling, inertia, noise), np.full(n_groups, 1 / n_groups)
    )
    contrast = np.array([1.0, -1.0] + [0.0] * (n_groups - 2))
    np.testing.assert_allclose(jacobian @ contrast, eigenvalue * contrast, atol=1e-6)


@pytest.mark.parametrize(("coupling", "share"), [(1.0, 0.5), (1.9, 0.5), (2.0, 0.5), (3.0, 0.9292798183200552)])
def test_softmax_choice_fixed_point(coupling, share):
    assert closed_forms.softmax_choice_fixed_point(coupling) == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize(("coupling", "noise"), [(3.0, 0.1), (2.5, 0.05), (60.0, 0.2), (2.0000001, 0.0)])
def test_softmax_fixed_points_are_fixed(coupling, noise):
    share = closed_forms.softmax_choice_fixed_point(coupling, noise)
    assert share > 0.5
    point = np.array([share, 1 - share])
    np.testing.assert_allclose(formulas.softmax_choice(point, point, coupling, 0.4, noise), point, atol=1e-12)


def test_softmax_noise_moves_the_threshold():
    assert closed_forms.softmax_choice_fixed_point(2.4, 0.2) == 0.5
    assert closed_forms.softmax_choice_fixed_point(2.6, 0.2) > 0.6


@pytest.mark.parametrize(("coupling", "inertia", "noise"), [(-3.0, 0.0, 0.0), (-4.0, 0.0, 0.2), (-9.0, 0.3, 0.1)])
def test_crowding_cycle(coupling, inertia, noise):
    low, high = closed_forms.crowding_cycle(coupling, inertia, noise)
    assert low < 0.45 and low + high == pytest.approx(1)
    for share, other in ((low, high), (high, low)):
        after = formulas.softmax_choice([share, 1 - share], [share, 1 - share], coupling, inertia, noise)
        assert after[0] == pytest.approx(other, abs=1e-12)


def test_crowding_cycle_numbers_and_their_absence():
    np.testing.assert_allclose(closed_forms.crowding_cycle(-3.0), [0.070720, 0.929280], atol=1e-6)
    assert closed_forms.crowding_cycle(-1.9) == (0.5, 0.5)
    # inertia of one half holds the eigenvalue at -.25: no cycle
    assert closed_forms.crowding_cycle(-3.0, inertia=0.5) == (0.5, 0.5)
    with pytest.raises(ValueError, match=r"coupling: 1.0 must be below 0"):
        closed_forms.crowding_cycle(1.0)


# selection ----------------------------------------------------------------------------------------------------------


def test_drift_of_rejection_sampling():
    assert closed_forms.selection_drift(0.2, [0.5, 0.5], 0.5) == pytest.approx(0.4)
    assert closed_forms.selection_drift(0.0, [0.5, 0.8], 0.5) == pytest.approx((0.25 - 0.64) / 0.5)
    np.testing.assert_allclose(closed_forms.selection_drift([0.1, 0.2], [[0.3, 0.3], [0.4, 0.2]], 0.5), [0.2, 0.64])


@pytest.mark.parametrize(
    ("penalty", "share", "eigenvalue", "stable"),
    [
        (0.25, 0.6899744811276125, 0.5, True),
        (0.5, 0.598687660112452, 0.0, True),
        (0.75, 0.566274, -0.5, True),
        (1.05, None, -1.1, False),
    ],
)
def test_penalty_fixed_point_and_range(penalty, share, eigenvalue, stable):
    assert closed_forms.penalty_eigenvalue(penalty, 0.5) == pytest.approx(eigenvalue)
    assert (abs(closed_forms.penalty_eigenvalue(penalty, 0.5)) < 1) == stable
    if share is not None:
        assert closed_forms.penalty_fixed_point(0.5, 0.2, penalty) == pytest.approx(share, abs=1e-6)


def test_linear_penalty():
    share, eigenvalue = closed_forms.linear_penalty_fixed_point(0.5, 0.2, 1.0, 0.5)
    assert share == pytest.approx(0.6)
    assert eigenvalue == pytest.approx(1 - 0.96)
    with pytest.raises(ValueError, match="raise the penalty"):
        closed_forms.linear_penalty_fixed_point(0.5, 0.2, 0.1, 0.5)


# performative prediction --------------------------------------------------------------------------------------------


def test_repeated_risk_minimisation_of_a_mean():
    path = closed_forms.repeated_risk_path(0.5, 1.0, 0.0, 6)
    np.testing.assert_allclose(path[:, 0], [0, 1, 1.5, 1.75, 1.875, 1.9375, 1.96875])
    assert closed_forms.repeated_risk_fixed_point(0.5, 1.0) == pytest.approx(2.0)
    np.testing.assert_allclose(
        closed_forms.repeated_risk_fixed_point(0.5 * np.eye(3), [1.0, 0.5, -0.5]), [2.0, 1.0, -1.0]
    )


def test_repeated_risk_minimisation_converges_though_its_norm_exceeds_one():
    matrix = [[0.5, 2.0], [0.0, 0.5]]
    point = closed_forms.repeated_risk_fixed_point(matrix, [1.0, 1.0])
    np.testing.assert_allclose(point, [10.0, 2.0])
    path = closed_forms.repeated_risk_path(matrix, [1.0, 1.0], [0.0, 0.0], 60)
    error = np.linalg.norm(path - point, axis=1)
    wanted = [9.055385138137417, 1.5637495003996005, 0.0001621358530987046, 0.0]
    np.testing.assert_allclose(error[[1, 5, 20, 60]], wanted, atol=1e-9)


def test_damped_paths():
    path = closed_forms.repeated_risk_path(0.5, 1.0, 0.0, 5, damping=0.2)[1:, 0]
    np.testing.assert_allclose(path, [0.2, 0.38, 0.542, 0.6878, 0.81902], atol=1e-9)
    path = closed_forms.repeated_risk_path(0.5, 1.0, 0.0, 5, damping=0.3)[1:, 0]
    np.testing.assert_allclose(path, [0.3, 0.555, 0.77175, 0.955988, 1.112589], atol=1e-6)
    np.testing.assert_allclose(np.diff(path)[1:] / np.diff(path)[:-1], 0.85)


def test_the_stable_point_is_not_the_optimum():
    assert closed_forms.linear_loss_points(-0.5, 2.0) == (0.25, 0.125)
    with pytest.raises(ValueError, match=r"slope: 0.0 must be above 0"):
        closed_forms.linear_loss_points(1.0, 0.0)
