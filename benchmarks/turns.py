"""Two sides that take turns, so that what is timed meets the same machine, whatever else goes on there.

A machine that others use as well may be half as fast a minute later, and then a ratio of two times says nothing. Here both
sides are started, and while one of them runs, all processes of the other are stopped (SIGSTOP), for a second or so each.
A process says that it is about to begin (`begin`), and that it has come to its end (`end`); what is counted is the time
between, as long as its side was not stopped.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

TURN = 1.0 # seconds


# In the process that is timed.

def begin() -> None:
    "Say that the clock is to start, and wait for it."
    print("ready", flush=True)
    sys.stdin.readline()


def end() -> None: print("done", flush=True)


# In the process that times.

def parents() -> dict[int, int]:
    "Each process of this machine, and the one that started it."
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError): found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return found


def descendants(process:int) -> set[int]:
    "All processes that were started by a process, or by those."
    family, known = {process}, parents()
    while more := {each for each, parent in known.items() if parent in family} - family: family |= more
    return family - {process}


def send(number:signal.Signals, processes:Iterable[int]) -> None:
    for each in processes:
        with contextlib.suppress(ProcessLookupError): os.kill(each, number)


class Timed:
    "A process, with those that it starts, and how long it has run since it began."
    def __init__(self, process:subprocess.Popen):
        self.process, self.seconds, self.resumed, self.ended = process, 0.0, 0.0, 0.0
        self.is_ready, self.is_done, self.printed = threading.Event(), threading.Event(), []
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        "Until it has said all."
        for line in self.process.stdout:
            self.printed.append(line)
            if line == "ready\n": self.is_ready.set()
            if line == "done\n":
                self.ended = time.perf_counter()
                self.is_done.set()
        for each in (self.is_ready, self.is_done): each.set() # it may have failed

    def family(self) -> list[int]:
        "The process and those that it started, as long as it is there."
        return [self.process.pid, *descendants(self.process.pid)] if self.process.poll() is None else []

    def begin(self) -> None:
        send(signal.SIGSTOP, self.family())
        with contextlib.suppress(BrokenPipeError): # it has failed already
            self.process.stdin.write("\n") # read when it goes on
            self.process.stdin.flush()

    def resume(self) -> None:
        family = self.family()
        self.resumed = time.perf_counter()
        send(signal.SIGCONT, family)

    def stop(self) -> None:
        "Count its turn, as far as it was at work."
        family = self.family()
        self.seconds += max(0.0, (self.ended or time.perf_counter()) - self.resumed)
        send(signal.SIGSTOP, family)

    def finish(self) -> None:
        "Let it come to its own end. Raises SystemExit if that is a failure."
        send(signal.SIGCONT, self.family())
        self.process.wait()
        self.reader.join()
        if self.process.returncode: raise SystemExit(f"what was timed failed (exit {self.process.returncode})")


def timed(sides:Sequence[tuple[Sequence[subprocess.Popen], float]]) -> list[list[float]]:
    "Seconds of the processes of each side, which is given with the length of its turns in units of `TURN`. Their standard error is read by nobody here. Raises SystemExit if one of them fails."
    found = [([Timed(process) for process in processes], turn) for processes, turn in sides]
    every = [each for side, _ in found for each in side]
    try:
        for each in every: each.is_ready.wait()
        for each in every: each.begin()
        while not all(each.is_done.is_set() for each in every):
            for side, turn in found: take_turn(side, turn)
        for each in every: each.finish()
    finally:
        for each in every: send(signal.SIGKILL, each.family()) # whoever is still there
    return [[each.seconds for each in side] for side, _ in found]


def beside(long:subprocess.Popen, others:Sequence[Callable[[], subprocess.Popen]], turn:float) -> tuple[Timed, list[Timed]]:
    """A long process with its turns in units of `TURN`, and shorter ones: each is started when the one before it has ended, while the long one is stopped, and takes
    turns of one unit with it. So each meets the machine that the long one meets. Raises SystemExit if one of them fails."""
    first, done = Timed(long), []
    try:
        first.is_ready.wait()
        first.begin()
        for start in others:
            done.append(other := Timed(start()))
            other.is_ready.wait()
            other.begin()
            while not other.is_done.is_set():
                take_turn([first], turn)
                take_turn([other], 1)
            other.finish()
        while not first.is_done.is_set(): take_turn([first], turn)
        first.finish()
    finally:
        for each in (first, *done): send(signal.SIGKILL, each.family()) # whoever is still there
    return first, done


def take_turn(side:Sequence[Timed], turn:float) -> None:
    "Let a side run, until its turn or its work is over."
    side = [each for each in side if not each.is_done.is_set()]
    for each in side: each.resume()
    until = time.perf_counter() + turn * TURN
    for each in side: each.is_done.wait(max(0.0, until - time.perf_counter()))
    for each in side: each.stop()
