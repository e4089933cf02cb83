import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jobs.terminal.interrupts import Interrupts


def tell(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_at_once_outside_a_commit(number: int) -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts().handled():
        tell(number)
        raise AssertionError("still going")


def test_a_commit_in_hand_is_finished_first() -> None:
    interrupts = Interrupts()
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.handled():
        with interrupts.commit():
            tell()
            done.append("committed")
        done.append("went on")
    assert done == ["committed"]


def test_a_failed_commit_fails_as_itself() -> None:
    interrupts = Interrupts()
    with pytest.raises(OSError, match="full"), interrupts.handled(), interrupts.commit():
        tell()
        raise OSError("full")


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts().handled():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_second_signal_ends_the_process_even_in_a_commit() -> None:
    code = (
        "import os, signal\nfrom jobs.terminal.interrupts import Interrupts\ni = Interrupts()\n"
        "with i.handled(), i.commit():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    print('committing', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    print('never', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130 and done.stdout == "committing\n"


def test_the_commit_of_one_thread_does_not_end_the_protection_of_another() -> None:
    interrupts = Interrupts()
    done = []
    other_is_in, main_is_in = threading.Event(), threading.Event()

    def reward_model() -> None:
        with interrupts.commit():
            other_is_in.set()
            main_is_in.wait(10)

    with pytest.raises(KeyboardInterrupt), interrupts.handled():
        thread = threading.Thread(target=reward_model)
        thread.start()
        other_is_in.wait(10)
        with interrupts.commit():
            main_is_in.set()
            thread.join()
            tell()
            done.append("committed")
        done.append("went on")
    assert done == ["committed"]


def test_a_signal_waits_for_the_commit_of_another_thread_and_then_stops_the_main_thread() -> None:
    interrupts = Interrupts()
    done = []
    is_in, told = threading.Event(), threading.Event()

    def reward_model() -> None:
        with interrupts.commit():
            is_in.set()
            told.wait(10)
            time.sleep(0.05)
            done.append("committed")

    with pytest.raises(KeyboardInterrupt), interrupts.handled():
        thread = threading.Thread(target=reward_model)
        thread.start()
        is_in.wait(10)
        tell()
        done.append("main went on")
        told.set()
        time.sleep(10)
        done.append("never stopped")
    thread.join()
    assert done == ["main went on", "committed"]


def test_a_signal_in_both_commits_waits_for_both() -> None:
    interrupts = Interrupts()
    done = []
    is_in, left = threading.Event(), threading.Event()

    def reward_model() -> None:
        with interrupts.commit():
            is_in.set()
            left.wait(10)
            done.append("other committed")

    with pytest.raises(KeyboardInterrupt), interrupts.handled():
        thread = threading.Thread(target=reward_model)
        thread.start()
        is_in.wait(10)
        with interrupts.commit():
            tell()
            done.append("main committed")
        left.set()
        time.sleep(10)
        done.append("never stopped")
    thread.join()
    assert done == ["main committed", "other committed"]
