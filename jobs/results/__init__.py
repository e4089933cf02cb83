"""The numbers and figures of ``docs/results/`` that come from the analytic mode: ``python -m jobs.results``."""
