"""All benchmarks, one after another, as one page: date, machine and versions, which bars held, and all that was printed.

    python benchmarks/all.py                               # all, as each is by itself: on a machine that does nothing else
    python benchmarks/all.py --quick                       # fewer rows and repeats, the same peers
    python benchmarks/all.py --only serving sweep
    python benchmarks/all.py --page nbs/figures.md         # where the page goes (default: figures.md)

The page is written anew after each benchmark, so that what was measured is there when one of them ends badly.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import environments

HERE = Path(__file__).parent


class Benchmark(NamedTuple):
    "A script of this folder, and how it is run."
    name: str
    question: str
    arguments: tuple[tuple[str, ...], ...] = ((),)  # one run for each
    quick: tuple[tuple[str, ...], ...] = ((),)


BENCHMARKS = (
    Benchmark("import_time", "What does the import cost?"),
    Benchmark("identity", "What does a key cost?"),
    Benchmark("warm_start", "How soon does a process know what has been computed?", quick=(("--rows", "100000"),)),
    Benchmark("first_run", "What does the first run cost above scikit-learn's own?", quick=(("--rows", "100000", "--repeats", "3"),)),
    Benchmark("tweak_last_step", "What does a fit cost when only the last step has changed?", quick=(("--rows", "100000", "--repeats", "3"),)),
    Benchmark("sweep", "What does a sweep cost, and how does it grow?", ((), ("--growth",)), (("--repeats", "1"), ("--growth", "--quick"))),
    Benchmark("honesty", "Are scores of the best of many right?", quick=(("--repetitions", "10", "--boards", "1"),)),
    Benchmark("tracking", "What does a record cost?", quick=(("--repeats", "5"),)),
    Benchmark("run_store", "What does it cost to find one run of many?", quick=(("--runs", "20000"),)),
    Benchmark("serving", "How many requests a second?", quick=(("--seconds", "2", "--repeats", "1"),)),
    Benchmark("false_alarms", "How often is an alarm false, and what is found?", quick=(("--repetitions", "5", "--rows", "100", "1000", "--features", "5", "20"),)),
    Benchmark("estimated_performance", "How right are estimates without labels?", quick=(("--repetitions", "4"),)),
    Benchmark("monitor_speed", "What does monitoring cost?", quick=(("--repetitions", "1"),)),
)


class Result(NamedTuple):
    "What came of a benchmark."
    benchmark: Benchmark
    seconds: float
    code: int     # with which the last of its runs that went wrong ended; 0
    output: str

    @property
    def held(self) -> int: return len(re.findall(r"^pass\b|\bholds$", self.output, re.MULTILINE))

    @property
    def failed(self) -> int: return len(re.findall(r"^FAIL\b|\bFAILS$", self.output, re.MULTILINE))


def ran(benchmark:Benchmark, is_quick:bool) -> Result:
    "Run a benchmark, and show what it prints while it prints it."
    began, code, lines = time.monotonic(), 0, []
    for arguments in benchmark.quick if is_quick else benchmark.arguments:
        command = [sys.executable, "-u", str(HERE/f"{benchmark.name}.py"), *arguments]
        lines.append(f"$ python benchmarks/{benchmark.name}.py {' '.join(arguments)}".rstrip() + "\n")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                if not line.startswith("installing "): lines.append(line) # the environment of a peer, the first time
        code = process.returncode or code
    return Result(benchmark, time.monotonic() - began, code, "".join(lines))


def machine() -> str:
    "Processor and memory, where the system tells."
    try:
        processor = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    except OSError: return sys.platform
    return f"{processor.group(1) if processor else 'a processor without a name'}, {int(memory.group(1)) / 2**20:.0f} GiB" if memory else sys.platform


def page(results:list[Result], is_quick:bool) -> str:
    "Everything as Markdown."
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    rows = [f"| [{each.benchmark.name}](#{each.benchmark.name.replace('_', '-')}) | {each.benchmark.question} | {each.held} | {each.failed} | {each.seconds / 60:.1f} | {each.code or ''} |" for each in results]
    parts = [f"## {each.benchmark.name.replace('_', ' ')}\n\n{each.benchmark.question}\n\n```text\n{each.output.rstrip()}\n```" for each in results]
    return "\n\n".join([
        "# Figures",
        "> Everything that is claimed about speed and honesty, measured in one run, beside others",
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}{', a quick look' if is_quick else ''}. {machine()}. {environments.versions('ml_pkg')}.",
        "Made by `python benchmarks/all.py`. What a benchmark does, and how, is said at the head of its script. \"Held\" and \"failed\" count its bars; an exit code is told if it did not end well.",
        "\n".join(["| benchmark | question | held | failed | minutes | exit code |", "|---|---|---|---|---|---|", *rows]),
        *parts,
    ]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows and repeats")
    parser.add_argument("--only", nargs="+", choices=[each.name for each in BENCHMARKS], metavar="NAME", help=", ".join(each.name for each in BENCHMARKS))
    parser.add_argument("--page", type=Path, default=Path("figures.md"), help="where the page is written (default: %(default)s)")
    asked = parser.parse_args()
    if not shutil.which("wrk") and "serving" in (asked.only or ["serving"]): parser.error("serving is measured with wrk, which is not installed (on Debian: apt-get install wrk)")
    results = []
    for benchmark in BENCHMARKS:
        if asked.only and benchmark.name not in asked.only: continue
        print(f"\n=== {benchmark.name}: {benchmark.question}", flush=True)
        results.append(ran(benchmark, asked.quick))
        asked.page.write_text(page(results, asked.quick), encoding="utf-8")
    print(f"\n{sum(each.held for each in results)} bars held, {sum(each.failed for each in results)} failed; {asked.page}")
    return int(any(each.code or each.failed for each in results))


if __name__ == "__main__":
    sys.exit(main())
