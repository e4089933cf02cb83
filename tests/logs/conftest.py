"""Fewer draws than a user gets."""

import pytest

from scpl_ray.logs import findings, ratings


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shuffle 199 times, which is faster by far and takes p-values of chance below .05 as rarely."""
    monkeypatch.setattr(ratings, "DRAWN", (199, 199))
    monkeypatch.setattr(findings, "TABLES", (199, 199))
