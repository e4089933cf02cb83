"""Fixed points and local stability of the feedback rules, in closed form.

A fixed point is stable when small deviations die out, which is when the spectral radius of the map's Jacobian there is
below 1. Five rounds cannot tell a transient from an instability; these functions say what to expect in the long run.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, lambertw, logit

from scpl_ray.shares import FloatArray


def _array(values: ArrayLike) -> FloatArray:
    return np.asarray(values, dtype=np.float64)


def retention_path(start: ArrayLike, rate: ArrayLike, newcomers: ArrayLike, rounds: int) -> FloatArray:
    """lambda(t) = nu^t lambda(0) + b (1 + nu + ... + nu^(t-1)) under a constant rate, shape (..., K).

    Below nu = 1 this is lambda* + nu^t (lambda(0) - lambda*). Without newcomers the logit of the first of two shares
    moves by ln(nu_1 / nu_2) per round.
    """
    rate = _array(rate)
    growth = (rate[..., None] ** np.arange(rounds)).sum(axis=-1)
    return np.asarray(rate**rounds * _array(start) + _array(newcomers) * growth)


def retention_jacobian(
    masses: ArrayLike, rate: ArrayLike, rate_slope: ArrayLike, gradients: ArrayLike, hessian: ArrayLike
) -> FloatArray:
    """Jacobian of lambda'_k = lambda_k nu(R_k(theta)) + b_k where theta minimises sum_j lambda_j R_j.

    J = diag(nu_k) + diag(lambda_k |nu'(R_k)|) G with G_kj = grad R_k' H^-1 grad R_j: what one group gains by mass,
    another loses through the shared parameters (Hashimoto et al. 2018).

    Args:
        masses: lambda, shape (K,).
        rate: nu(R_k), shape (K,).
        rate_slope: nu'(R_k) <= 0, shape (K,).
        gradients: grad R_k at theta, shape (K, P) for P parameters.
        hessian: H = sum_j lambda_j Hess R_j, shape (P, P).

    Returns:
        J, shape (K, K).
    """
    gradients = _array(gradients)
    coupling = gradients @ np.linalg.solve(_array(hessian), gradients.T)
    return np.asarray(np.diag(_array(rate)) + (_array(masses) * np.abs(_array(rate_slope)))[:, None] * coupling)


def balanced_training_jacobian(rate: ArrayLike) -> FloatArray:
    """J = diag(nu_k), shape (K, K), where training weighs the groups equally whatever their mass: always stable."""
    return np.asarray(np.diag(_array(rate)))


@dataclasses.dataclass(frozen=True)
class TwoGaussians:
    """Two groups whose best parameters lie a distance apart: R_1 = s + theta^2, R_2 = s + (theta - d)^2.

    The learner's theta = share_2 d minimises the mass-weighted risk; both groups receive b newcomers per round.
    At equal masses both risks are R* = s + d^2 / 4.
    """

    noise: float
    """s, the risk that no parameter removes."""
    distance: float
    """d."""

    @property
    def fair_risk(self) -> float:
        """R* = s + d^2 / 4."""
        return self.noise + self.distance**2 / 4.0

    def risks(self, shares: ArrayLike) -> FloatArray:
        """R_k under shares of shape (..., 2), same shape."""
        shares = _array(shares)
        return np.asarray(self.noise + (self.distance * shares[..., ::-1]) ** 2)

    def fair_mass(self, sensitivity: float, newcomers: float) -> float:
        """lambda* = b / (c R*) per group at the symmetric point of nu = 1 - c R.

        Raises:
            ValueError: c R* > 1: the rate is clipped at 0 there and the formula does not hold.
        """
        self._check_unclipped(sensitivity)
        return newcomers / (sensitivity * self.fair_risk)

    def linear_eigenvalues(self, sensitivity: float) -> tuple[float, float]:
        """Eigenvalues at the symmetric point of nu = 1 - c R: (1 - c R*, 1 + c (d^2 / 4 - s)).

        The second belongs to one group growing at the other's cost: the fair point is stable iff d^2 / 4 < s.

        Raises:
            ValueError: c R* > 1.
        """
        self._check_unclipped(sensitivity)
        return 1.0 - sensitivity * self.fair_risk, 1.0 + sensitivity * (self.distance**2 / 4.0 - self.noise)

    def exponential_eigenvalue(self, sensitivity: float) -> float:
        """Antisymmetric eigenvalue of nu = exp(-kappa R): e^(-kappa s - x) (1 + 2 x) with x = kappa d^2 / 4.

        With s = 0 it exceeds 1 for 0 < x < :func:`critical_exponential_sensitivity`: weak sensitivity is not safe.
        """
        x = sensitivity * self.distance**2 / 4.0
        return float(np.exp(-sensitivity * self.noise - x) * (1.0 + 2.0 * x))

    def jacobian(self, masses: ArrayLike, rate: ArrayLike, rate_slope: ArrayLike) -> FloatArray:
        """:func:`retention_jacobian` of this instance at any masses, shape (2, 2)."""
        masses = _array(masses)
        theta = self.distance * masses[1] / masses.sum()
        gradients = np.array([[2.0 * theta], [2.0 * (theta - self.distance)]])
        return retention_jacobian(masses, rate, rate_slope, gradients, np.array([[2.0 * masses.sum()]]))

    def _check_unclipped(self, sensitivity: float) -> None:
        if not 0 < sensitivity * self.fair_risk <= 1:
            raise ValueError(
                f"sensitivity: {sensitivity} times the fair risk {self.fair_risk:g} must lie in (0, 1], "
                "where nu = 1 - c R is not clipped"
            )


def critical_exponential_sensitivity() -> float:
    """The x > 0 with e^(-x) (1 + 2 x) = 1, where the fair point of exponential retention turns stable: 1.256431."""
    return float(-0.5 - lambertw(-0.5 * np.exp(-0.5), k=-1).real)


@dataclasses.dataclass(frozen=True)
class LearningCurve:
    """Quality that follows a group's share of the data, q_k = q0 s_k^gamma, under retention nu = 1 - c (1 - q)."""

    ceiling: float
    """q0 in (0, 1], the quality of a group that owns all data."""
    exponent: float
    """gamma >= 0."""

    def quality(self, shares: ArrayLike) -> FloatArray:
        """q_k, same shape as ``shares``."""
        return np.asarray(self.ceiling * _array(shares) ** self.exponent)

    def fair_quality(self, n_groups: int) -> float:
        """q* = q0 K^-gamma at equal shares."""
        return float(self.ceiling * float(n_groups) ** -self.exponent)

    def eigenvalues(self, sensitivity: float, n_groups: int) -> FloatArray:
        """At equal shares, shape (K,): 1 - c (1 - q*) once, then 1 - c + c q* (1 + gamma) K - 1 times."""
        quality = self.fair_quality(n_groups)
        common = 1.0 - sensitivity * (1.0 - quality)
        contrast = 1.0 - sensitivity + sensitivity * quality * (1.0 + self.exponent)
        return np.array([common] + [contrast] * (n_groups - 1))

    def is_stable(self, n_groups: int) -> bool:
        """Whether equal shares are stable: q* (1 + gamma) < 1, whatever the sensitivity."""
        return self.fair_quality(n_groups) * (1.0 + self.exponent) < 1.0

    def jacobian(self, shares: ArrayLike, sensitivity: float) -> FloatArray:
        """J_kj = delta_kj (nu_k + c gamma q_k) - c gamma q_k s_k at any shares, shape (K, K)."""
        shares = _array(shares)
        quality = self.quality(shares)
        pull = sensitivity * self.exponent * quality
        return np.asarray(np.diag(1.0 - sensitivity * (1.0 - quality) + pull) - (pull * shares)[:, None])


def softmax_choice_eigenvalue(coupling: float, n_groups: int, inertia: float = 0.0, noise: float = 0.0) -> float:
    """Antisymmetric eigenvalue of softmax choice at equal shares: 1 - eta + eta (1 - eps) beta a / K.

    Args:
        coupling: beta a, where utility is u_k = c0 + a s_k.
        n_groups: K.
        inertia: 1 - eta.
        noise: eps.
    """
    return inertia + (1.0 - inertia) * (1.0 - noise) * coupling / n_groups


def softmax_choice_fixed_point(coupling: float, noise: float = 0.0) -> float:
    """The larger share (1 + x) / 2 of two groups at rest: x = (1 - eps) tanh(beta a x / 2), the root x >= 0.

    1/2 up to the bifurcation at (1 - eps) beta a = 2; inertia changes the pace, not the point. ``coupling`` is beta a.
    """
    return (1.0 + _tanh_root(1.0 - noise, coupling / 2.0)) / 2.0


def crowding_cycle(coupling: float, inertia: float = 0.0, noise: float = 0.0) -> tuple[float, float]:
    """The two shares (low, high) between which two groups alternate when users avoid the crowd (``coupling`` < 0).

    With x the distance of the shares, (2 - eta) x = eta (1 - eps) tanh(|beta a| x / 2). Both are 1/2, so that there is
    no cycle, while :func:`softmax_choice_eigenvalue` stays above -1.

    Raises:
        ValueError: ``coupling`` is not negative.
    """
    if coupling >= 0:
        raise ValueError(f"coupling: {coupling} must be below 0; users who follow the crowd do not alternate")
    eta = 1.0 - inertia
    x = _tanh_root(eta * (1.0 - noise) / (2.0 - eta), -coupling / 2.0)
    return (1.0 - x) / 2.0, (1.0 + x) / 2.0


def _tanh_root(gain: float, slope: float) -> float:
    """The largest root of x = gain * tanh(slope * x)."""
    if gain * slope <= 1.0 + 1e-12:
        return 0.0
    return float(brentq(lambda x: gain * np.tanh(slope * x) - x, 1e-9, gain, xtol=1e-15))


def selection_drift(mean_gap: ArrayLike, sds: ArrayLike, beta: ArrayLike) -> FloatArray:
    """Log-odds that one round of rejection sampling adds: dmu / beta + (sd_A^2 - sd_B^2) / (2 beta^2), shape (...).

    Args:
        mean_gap: dmu, mean reward of A minus that of B, shape (...).
        sds: standard deviations of the rewards of A and B, shape (..., 2); both normal.
        beta: temperature of acceptance exp((r - r_max) / beta).
    """
    variances, beta = _array(sds) ** 2, _array(beta)
    return np.asarray(_array(mean_gap) / beta + (variances[..., 0] - variances[..., 1]) / (2.0 * beta**2))


def penalty_fixed_point(target: ArrayLike, reward_gap: ArrayLike, penalty: ArrayLike) -> FloatArray:
    """Share of logit tau + dq / lambda, where selection by reward minus lambda ln(s / tau) rests, shape (...).

    A penalty leaves this bias; quotas and calibration do not. Stable iff |:func:`penalty_eigenvalue`| < 1.
    """
    return np.asarray(expit(logit(_array(target)) + _array(reward_gap) / _array(penalty)))


def penalty_eigenvalue(penalty: ArrayLike, beta: ArrayLike) -> FloatArray:
    """1 - lambda / beta, the factor on a deviation of the logit per round: stable iff 0 < lambda / beta < 2."""
    return np.asarray(1.0 - _array(penalty) / _array(beta))


def linear_penalty_fixed_point(target: float, reward_gap: float, penalty: float, beta: float) -> tuple[float, float]:
    """Selection of two groups by reward minus lambda (s - tau): share tau + dq / (2 lambda), and the eigenvalue there.

    The eigenvalue is 1 - 2 (lambda / beta) s (1 - s).

    Raises:
        ValueError: the share would leave (0, 1): the penalty is too weak to hold both groups.
    """
    share = target + reward_gap / (2.0 * penalty)
    if not 0 < share < 1:
        raise ValueError(f"penalty: {penalty} puts the fixed point at {share:g}, outside (0, 1); raise the penalty")
    return share, 1.0 - 2.0 * penalty / beta * share * (1.0 - share)


def repeated_risk_fixed_point(matrix: ArrayLike, offset: ArrayLike) -> FloatArray:
    """Performatively stable theta = (I - A)^-1 b of repeated risk minimisation theta' = A theta + b, shape (P,).

    Estimating the mean of N(mu_0 + eps theta, 1) is A = eps, b = mu_0 (Perdomo et al. 2020). Retraining converges iff
    ``spectral_radius(A) < 1``; the norm of A may exceed 1.
    """
    matrix = np.atleast_2d(_array(matrix))
    return np.asarray(np.linalg.solve(np.eye(len(matrix)) - matrix, np.atleast_1d(_array(offset))))


def repeated_risk_path(
    matrix: ArrayLike, offset: ArrayLike, start: ArrayLike, rounds: int, damping: float = 1.0
) -> FloatArray:
    """theta(0..t), shape (t + 1, P), of theta' = (1 - h) theta + h (A theta + b).

    ``damping`` h = 1 is repeated risk minimisation; below 1 it is a gradient step on squared error with rate h, or a
    population that moves only a fraction h per round.
    """
    matrix, offset = np.atleast_2d(_array(matrix)), np.atleast_1d(_array(offset))
    path = [np.atleast_1d(_array(start))]
    for _ in range(rounds):
        path.append((1.0 - damping) * path[-1] + damping * (matrix @ path[-1] + offset))
    return np.array(path)


def linear_loss_points(offset: float, slope: float) -> tuple[float, float]:
    """Performatively stable and optimal theta for the loss theta z, with z of mean a0 + a1 theta: (-a0/a1, -a0/(2 a1)).

    The stable point, where retraining rests, is not the one of least loss (Miller et al. 2021).

    Raises:
        ValueError: a1 <= 0: the loss has no minimum.
    """
    if slope <= 0:
        raise ValueError(f"slope: {slope} must be above 0 for the loss to have a minimum")
    return -offset / slope, -offset / (2.0 * slope)
