"""Interrupts wait for a safe place; the second one does not."""

from __future__ import annotations

import signal
import threading

import pytest

from isae.interrupts import SIGNALS, deferred_interrupts


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_waits_and_the_second_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with deferred_interrupts() as stop:
        stop.check()
        signal.raise_signal(number)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_handlers_come_back_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError, match="mine"), deferred_interrupts():
        raise ValueError("mine")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_another_thread_leaves_the_handlers_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with deferred_interrupts() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.asked))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
