"""The pages of results and the numbers on them, as tests read them."""

from scpl_ray.report import text
from scpl_ray.studies.statistics import Verdict
from tests.docs.pages import DOCS


def words_of(name: str) -> str:
    """A page of results, without its line breaks."""
    return " ".join((DOCS / "results" / f"{name}.md").read_text().split())


def numbers_of(found: Verdict | None) -> str:
    """An estimate with its interval, as pages write it."""
    assert found is not None
    low, high = text.signed(found.interval.low), text.signed(found.interval.high)
    return f"{text.signed(found.estimate)} ({low} to {high})"
