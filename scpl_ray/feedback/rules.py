"""Feedback rules: how users react to the model they were given.

A rule maps the users of a round and what was measured to the users of the next round. Rules are array functions on
(..., K): a run uses shape (K,), and the analytic mode puts axes for seeds and settings in front. Nothing is changed in
place: :func:`peek` returns the next shares and :func:`step` the next state, and both look rules up in :data:`RULES`.

A rule is one function and one record in :data:`RULES`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scpl_ray.config import Feedback, Groups
from scpl_ray.config.errors import nearest
from scpl_ray.config.schema import CUSTOM
from scpl_ray.feedback import formulas
from scpl_ray.feedback.state import PopulationState
from scpl_ray.own import references
from scpl_ray.own.registry import Registry
from scpl_ray.seeds import derive_seed, generator
from scpl_ray.shares import FloatArray, IntArray, check_shares, largest_remainder, normalise


@dataclasses.dataclass(frozen=True)
class Moment:
    """What a rule sees; arrays of shape (..., K)."""

    arrivals: FloatArray
    """User mass of the round that was measured."""
    measured: FloatArray
    """The measure to which the groups react, in [0, 1]."""
    initial_shares: FloatArray
    """Shares of round 1."""
    round_: int
    """The round that was measured, from 1; the rule gives the users of ``round_ + 1``."""
    seed: int
    """Seed for rules that draw random numbers."""

    @property
    def shares(self) -> FloatArray:
        """Shares s_k of the round that was measured, shape (..., K)."""
        return normalise("arrivals", self.arrivals)

    def spread(self, shares: FloatArray) -> FloatArray:
        """Divide the same total number of users by other shares, shape (..., K)."""
        return np.asarray(shares * self.arrivals.sum(axis=-1, keepdims=True))


def _no_check(feedback: Feedback, n_groups: int) -> None:
    pass


def _parts_of_users(feedback: Feedback) -> bool:
    return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """A registered rule and its properties."""

    meaning: str
    """How users react, in a few words."""
    step: Callable[[Moment, Feedback], FloatArray]
    """Returns the user mass of the next round, shape (..., K)."""
    check: Callable[[Feedback, int], None] = _no_check
    """Raises ``ValueError`` if the rule's settings are missing or wrong for this number of groups."""
    reacts: bool = True
    """Whether the measured values have any effect; otherwise the shares are set in advance."""
    total_moves: bool = False
    """Whether the total number of users changes, so that the masses matter and not only the shares."""
    whole_users: Callable[[Feedback], bool] = _parts_of_users
    """Whether users are whole numbers under these settings."""


def _static(moment: Moment, feedback: Feedback) -> FloatArray:
    return moment.arrivals


def _schedule(moment: Moment, feedback: Feedback) -> FloatArray:
    return moment.spread(formulas.schedule(moment.initial_shares, _schedule_step(feedback), moment.round_))


def _linear(moment: Moment, feedback: Feedback) -> FloatArray:
    return moment.spread(formulas.linear_response(moment.shares, moment.measured, feedback.alpha, feedback.floor))


def _softmax(moment: Moment, feedback: Feedback) -> FloatArray:
    choice = formulas.softmax_choice(moment.shares, moment.measured, feedback.beta, feedback.inertia, feedback.noise)
    return moment.spread(choice)


def _retention(moment: Moment, feedback: Feedback) -> FloatArray:
    rate = formulas.retention_rate(1.0 - moment.measured, feedback.retention, np.asarray(feedback.sensitivity))
    if feedback.agents:
        draws = generator(moment.seed, "feedback", moment.round_)
        return formulas.retention_agents(moment.arrivals, rate, np.asarray(feedback.arrivals), draws)
    return formulas.retention(moment.arrivals, rate, np.asarray(feedback.arrivals))


def _replicator(moment: Moment, feedback: Feedback) -> FloatArray:
    if feedback.ratio:
        return moment.spread(formulas.replicator_ratio(moment.shares, moment.measured))
    return moment.spread(formulas.replicator_exponential(moment.shares, moment.measured, feedback.beta))


def _custom(moment: Moment, feedback: Feedback) -> FloatArray:
    return _by_function(_custom_function(feedback), str(feedback.function), "feedback.function", moment)


def _by_function(function: Callable[..., ArrayLike], name: str, key: str, moment: Moment) -> FloatArray:
    """A ``function(shares, measured, *, initial_shares, round_, seed) -> shares`` on arrays of shape (K,), by row.

    Raises:
        ValueError: it fails, or does not return shares.
    """
    alone = moment.shares.ndim == 1
    rows = moment.shares.reshape(-1, moment.shares.shape[-1])
    measured = np.broadcast_to(moment.measured, moment.shares.shape).reshape(rows.shape)
    initial = np.broadcast_to(moment.initial_shares, moment.shares.shape).reshape(rows.shape)
    shares = [
        check_shares(
            f"{key}: what {name} returned",
            references.called(
                name,
                key,
                _numbers,
                function,
                row,
                m.copy(),
                initial_shares=i.copy(),
                round_=moment.round_,
                # simulated seeds are rows of one call: each has chance of its own
                seed=moment.seed if alone else derive_seed(moment.seed, "feedback of a row", moment.round_, number),
            ),
            rows.shape[-1],
        )
        for number, (row, m, i) in enumerate(zip(rows, measured, initial, strict=True))
    ]
    return moment.spread(np.array(shares).reshape(moment.shares.shape))


def _numbers(function: Callable[..., ArrayLike], *arguments: FloatArray, **named: Any) -> FloatArray:
    """What a function returns, as numbers."""
    return np.asarray(function(*arguments, **named), dtype=np.float64)


def _adopted(name: str, reference: str) -> Rule:
    """The rule that an installed package offers: a :class:`Rule`, or a function as for ``feedback.function``."""
    found = references.find(reference, f"feedback.rule = {name!r}")
    if isinstance(found, Rule):
        return dataclasses.replace(found, step=functools.partial(references.called, name, "feedback.rule", found.step))
    meaning = " ".join((found.__doc__ or reference).strip().splitlines()[0].split())
    return Rule(meaning=meaning, step=functools.partial(_by_adopted, found, name))


def _by_adopted(function: Callable[..., ArrayLike], name: str, moment: Moment, feedback: Feedback) -> FloatArray:
    return _by_function(function, name, "feedback.rule", moment)


def _schedule_step(feedback: Feedback) -> tuple[float, ...]:
    if feedback.step is None:
        raise ValueError("feedback.step: null; the schedule rule needs each group's change of share per round")
    return feedback.step


def _custom_function(feedback: Feedback) -> Callable[..., ArrayLike]:
    if feedback.function is None:
        raise ValueError(
            "feedback.function: null; the custom rule needs 'package.module:function' or 'FILE.py:function'"
        )
    return references.load(feedback.function, "feedback.function")


def _check_per_group(name: str, value: tuple[float, ...] | float, n_groups: int, most: float = np.inf) -> None:
    numbers = np.asarray(value, dtype=np.float64)
    if numbers.ndim and len(numbers) != n_groups:
        raise ValueError(f"{name}: {len(numbers)} numbers for {n_groups} groups; give one, or one per group")
    if not np.all((numbers >= 0) & (numbers <= most)):
        allowed = ">= 0" if most == np.inf else f"in [0, {most:g}]"
        raise ValueError(f"{name}: {value} is out of range; each number is {allowed}")


def _check_schedule(feedback: Feedback, n_groups: int) -> None:
    change = _schedule_step(feedback)
    if len(change) != n_groups:
        raise ValueError(f"feedback.step: {len(change)} numbers for {n_groups} groups; give one per group")
    formulas.schedule(np.full(n_groups, 1.0 / n_groups), change, 0)


def _check_retention(feedback: Feedback, n_groups: int) -> None:
    most = 1.0 if feedback.retention == "constant" else np.inf
    _check_per_group("feedback.sensitivity", feedback.sensitivity, n_groups, most)
    _check_per_group("feedback.arrivals", feedback.arrivals, n_groups)


def _check_custom(feedback: Feedback, n_groups: int) -> None:
    _custom_function(feedback)


_BUILT_IN = {
    "static": Rule(meaning="users do not react (control)", step=_static, reacts=False),
    "schedule": Rule(
        meaning="shares change by a preset step per round", step=_schedule, check=_check_schedule, reacts=False
    ),
    "linear": Rule(meaning="shares move in proportion to a group's measure less the mean", step=_linear),
    "softmax": Rule(meaning="users choose by the softmax of the measure, with inertia and noise", step=_softmax),
    "retention": Rule(
        meaning="users stay with a rate that falls with their risk, and new ones arrive",
        step=_retention,
        check=_check_retention,
        total_moves=True,
        whole_users=lambda feedback: feedback.agents,
    ),
    "replicator": Rule(meaning="shares grow in proportion to the measure, as fitness", step=_replicator),
    CUSTOM: Rule(meaning="your function, named by feedback.function", step=_custom, check=_check_custom),
}
RULES = Registry(_BUILT_IN, "scpl_ray.rules", _adopted)
"""The rules by ``feedback.rule``: these, and those of installed packages."""


def validate(feedback: Feedback, n_groups: int) -> None:
    """Check the settings of the chosen rule for ``n_groups`` groups.

    Raises:
        ValueError: an unknown rule, a missing or wrong setting, or a custom function that cannot be imported.
    """
    if feedback.rule not in RULES:
        raise ValueError(
            f"feedback.rule: {feedback.rule!r} is unknown; choose one of {', '.join(RULES.names)}"
            f"{nearest(feedback.rule, RULES.names)}"
        )
    formulas.at_least(np.full(n_groups, 1.0 / n_groups), feedback.floor)
    RULES[feedback.rule].check(feedback, n_groups)


def try_custom(feedback: Feedback, groups: Groups) -> None:
    """Call the user's function once, with the shares of round 1 and 0.5 measured for every group.

    Does nothing for the rules of this project.

    Raises:
        ValueError: the function does not take what it is given, fails, or does not return shares.
    """
    if feedback.rule in RULES and RULES.built_in(feedback.rule) is not None and feedback.rule != CUSTOM:
        return
    shares = np.asarray(groups.shares, dtype=np.float64)
    try:
        advance(shares, np.full(len(shares), 0.5), feedback, initial_shares=shares, round_=1, seed=0)
    except references.FailedError as error:
        raise ValueError(
            f"{error}; it was tried with shares {list(groups.shares)}, is called as function(shares, measured, *, "
            "initial_shares, round_, seed) and returns the next shares"
        ) from error


def _with_floor(users: FloatArray, feedback: Feedback) -> FloatArray:
    """The users, with every group's share at ``feedback.floor`` or more; shape (..., K)."""
    if feedback.floor == 0.0:
        return users
    if RULES[feedback.rule].whole_users(feedback):
        return formulas.whole_at_least(users, feedback.floor)
    total = users.sum(axis=-1, keepdims=True)
    return np.asarray(formulas.at_least(users / total, feedback.floor) * total)


def whole_users(groups: Groups, feedback: Feedback) -> FloatArray:
    """``feedback.users`` by the shares of ``groups`` in whole users, before any floor; shape (K,)."""
    return largest_remainder(groups.shares, round(feedback.users)).astype(np.float64)


def initial_state(groups: Groups, feedback: Feedback) -> PopulationState:
    """The users of round 1: ``feedback.users`` by the shares of ``groups``; whole users where the rule draws agents.

    Shares are lifted to ``feedback.floor``.

    Raises:
        ValueError: see :func:`validate`.
    """
    validate(feedback, len(groups.names))
    if RULES[feedback.rule].whole_users(feedback):
        users = whole_users(groups, feedback)
    else:
        users = np.array([share * feedback.users for share in groups.shares])
    return PopulationState(tuple(_with_floor(users, feedback).tolist()))


def advance(
    arrivals: ArrayLike,
    measured: ArrayLike,
    feedback: Feedback,
    *,
    initial_shares: ArrayLike,
    round_: int,
    seed: int,
) -> FloatArray:
    """User mass of round ``round_ + 1``, shape (..., K), from that of ``round_``.

    Under every rule, no group's share falls below ``feedback.floor``.

    Args:
        arrivals: user mass lambda, shape (..., K), >= 0.
        measured: the measure to which the groups react, in [0, 1], shape (..., K) or (K,).
        feedback: the rule and its settings.
        initial_shares: shares of round 1, shape (..., K) or (K,).
        round_: the round that was measured, from 1.
        seed: used only by the retention rule with ``agents`` and possibly by a custom function.

    Raises:
        ValueError: settings as in :func:`validate`; ``measured`` of another shape, NaN, or outside [0, 1]; no users.
    """
    masses = np.asarray(arrivals, dtype=np.float64)
    values = np.asarray(measured, dtype=np.float64)
    n_groups = masses.shape[-1]
    validate(feedback, n_groups)
    if values.shape not in (masses.shape, (n_groups,)):
        raise ValueError(f"measured: shape {values.shape}; needs one number per group, shape {masses.shape}")
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"measured: {values.tolist()} holds NaN or a number outside [0, 1]; measure every group")
    moment = Moment(masses, values, check_shares("initial_shares", initial_shares, n_groups), round_, seed)
    users = RULES[feedback.rule].step(moment, feedback)
    if np.any(users.sum(axis=-1) <= 0):
        raise ValueError(
            f"arrivals: nobody is left after round {round_}; raise feedback.arrivals or lower feedback.sensitivity"
        )
    return _with_floor(users, feedback)


def step(
    state: PopulationState,
    measured: ArrayLike,
    feedback: Feedback,
    *,
    initial_shares: ArrayLike,
    round_: int,
    seed: int,
) -> PopulationState:
    """The users of round ``round_ + 1``; arguments and errors as in :func:`advance`, with shape (K,)."""
    users = advance(state.arrivals, measured, feedback, initial_shares=initial_shares, round_=round_, seed=seed)
    return PopulationState(tuple(users.tolist()))


def peek(
    state: PopulationState,
    measured: ArrayLike,
    feedback: Feedback,
    *,
    initial_shares: ArrayLike,
    round_: int,
    seed: int,
) -> FloatArray:
    """The shares to which :func:`step` would lead, shape (K,)."""
    return step(state, measured, feedback, initial_shares=initial_shares, round_=round_, seed=seed).shares


def draw_counts(shares: ArrayLike, total: int, seed: int) -> IntArray:
    """Counts of ``total`` independent draws from the groups: Multinomial(total, shares), shape (K,).

    Raises:
        ValueError: invalid shares or a negative total.
    """
    if total < 0:
        raise ValueError(f"total: {total} is negative; give 0 or more")
    law = normalise("shares", check_shares("shares", shares))
    return generator(seed, "draw_counts").multinomial(total, law)
