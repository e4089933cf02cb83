"""A check of devices that ends badly, in a module that imports nothing heavy: a process of its own imports it."""

import atexit
import os
import time

from jobs.devices.attempt import CheckError, Report


def fails(report: Report, rank: int, ranks: int, how: str) -> None:
    """Passes the first check, and ends in the second."""
    report.passed("first", "well")
    if how == "error":
        atexit.register(print, "reading: 0 of 1")  # as a progress bar that ends after the error
        raise CheckError("the second is broken")
    if how == "crash":
        os.abort()
    if how == "hang":
        time.sleep(60)
