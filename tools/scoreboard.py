"""Run what stands for each promise of tests/faults.toml, and tell how often it was tried and how often it held: `python tools/scoreboard.py`.

Attempts are counted by the tests themselves (`attempts` in tests/conftest.py); a test that counts nothing is one attempt. A test
that fails lost one attempt, after those that it had counted. One that was skipped, or is not there, is a miss.
"""

import argparse
import datetime
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "faults.toml"
REPORT = ("-o", "junit_family=xunit1", "-o", "junit_logging=no") # what a report has to be like: names of tests, and what they counted
LONG = {"ML_PKG_FAULTS": "4", "ML_PKG_KILLS": "50", "ML_PKG_PROMOTIONS": "100", "ML_PKG_REQUESTS": "100000", "ML_PKG_CASES": "4000", "ML_PKG_REGISTRATIONS": "1000", "ML_PKG_LOCKED": "60", "ML_PKG_SOAK": "900", "ML_PKG_EVERY_BIT": "1"}


class Told(NamedTuple):
    "What a test said."
    name: str                 # "test_server.py::test_killed_under_load[durable]"
    attempts: dict[str, int]  # by what was tried; "" for all together
    outcome: str              # "passed", "failed" or "skipped"
    why: str                  # if it did not pass
    seconds: float


class Line(NamedTuple):
    "What came of a case."
    group: str
    number: str
    fault: str
    attempts: int
    passes: int
    seconds: float
    misses: list[str]


def tests_of(cases:Iterable[dict]) -> list[str]:
    "Functions as pytest takes them, each once; with which parameters is told afterwards."
    return list(dict.fromkeys(f"tests/{each.partition('[')[0]}" for case in cases for each in case.get("tests", [])))


def run_tests(names:list[str], environment:dict[str, str]) -> list[Told]:
    "Run them all in one go, in their order."
    if not names: return []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *REPORT, f"--junitxml={report}", *names], cwd=ROOT, env=environment)
        if done.returncode > 1 or not report.exists(): sys.exit(f"pytest could not run these tests (exit code {done.returncode}): what it says is above")
        return told_in(report)


def told_in(report:Path) -> list[Told]: return [told(each) for each in ElementTree.parse(report).iter("testcase")]


def told(case:ElementTree.Element) -> Told:
    bad = next((each for each in case if each.tag in ("failure", "error")), None)
    skipped = case.find("skipped")
    found = bad if bad is not None else skipped
    counted = {each.get("name", "").removeprefix("attempts").strip(): int(each.get("value", "0")) for each in case.iter("property") if each.get("name", "").startswith("attempts")}
    outcome = "failed" if bad is not None else "skipped" if skipped is not None else "passed"
    return Told(f"{case.get('classname', '').rpartition('.')[2]}.py::{case.get('name')}", counted, outcome, "" if found is None else (found.get("message") or found.text or "").split("\n")[0][:200], float(case.get("time", 0)))


def stands_for(pattern:str, name:str) -> bool:
    "Whether a test is meant by 'file.py::function', with all its parameters, or by 'file.py::function[pattern]'."
    function, _, parameters = pattern.partition("[")
    return name == function or name.startswith(f"{function}[") and (not parameters or fnmatchcase(name[len(function) + 1:-1], parameters[:-1]))


def of_tests(case:dict, tests:list[Told]) -> Iterator[tuple[int, int, float, str]]:
    "Attempts, passes, seconds and what is missing, of each test of a case."
    for pattern in case.get("tests", []):
        found = [each for each in tests if stands_for(pattern, each.name)]
        if not found: yield 0, 0, 0.0, f"{pattern}: no such test"
        for each in found: yield outcome(each, case.get("counts", []))


def outcome(test:Told, kinds:list[str]) -> tuple[int, int, float, str]:
    "Of some kinds of attempts, if those are what a case is about; then they have to be there."
    held = sum(test.attempts.get(kind, 0) for kind in kinds) if kinds else test.attempts.get("", 0)
    if test.outcome == "skipped": return 0, 0, test.seconds, f"{test.name}: skipped, {test.why}"
    if test.outcome == "failed": return held + 1, held, test.seconds, f"{test.name}: {test.why}"
    if kinds and not held: return 0, 0, test.seconds, f"{test.name}: tried nothing of {', '.join(kinds)}"
    return held or 1, held or 1, test.seconds, ""


def of_programs(case:dict, environment:dict[str, str]) -> Iterator[tuple[int, int, float, str]]:
    "The same of programs: notebooks that are run, and tools."
    for words in [*(["nbdev_test", "--path", f"nbs/{each}"] for each in case.get("notebooks", [])), *case.get("commands", [])]:
        program, began = shutil.which(words[0], path=f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"), time.monotonic()
        if program is None: yield 0, 0, 0.0, f"{words[0]}: not installed"
        else:
            done = subprocess.run([program, *words[1:]], cwd=ROOT, env=environment, capture_output=True, text=True)
            why = "" if done.returncode == 0 else f"{' '.join(words)}: {(done.stdout + done.stderr).strip().splitlines()[-1:]}"
            yield 1, not why, time.monotonic() - began, why


def line(case:dict, tests:list[Told], environment:dict[str, str]) -> Line:
    attempts, passes, seconds, misses = zip(*of_tests(case, tests), *of_programs(case, environment), strict=True)
    return Line(case["group"], str(case.get("number", "")), case["fault"], sum(attempts), sum(passes), sum(seconds), [*filter(None, misses), *([case["miss"]] if "miss" in case else [])])


def text(lines:list[Line]) -> Iterator[str]:
    for group, those in groupby(lines, lambda each: each.group):
        yield f"\n{group:80}  attempts   passes  losses  seconds"
        for each in those:
            yield f"{each.number:>3} {each.fault[:76]:76} {each.attempts:9,} {each.passes:8,} {each.attempts - each.passes:7,} {each.seconds:8.1f}{'' if is_well(each) else '  MISS'}"
            yield from (f"      {miss}" for miss in each.misses)


def markdown(lines:list[Line]) -> Iterator[str]:
    for group, those in groupby(lines, lambda each: each.group):
        yield f"\n### {group}\n\n| | fault | attempts | passes | losses | seconds |\n|---:|---|---:|---:|---:|---:|"
        for each in those:
            yield f"| {each.number} | {each.fault.replace('|', chr(92) + '|')}{''.join(f'<br>**miss:** {miss}' for miss in each.misses)} | {each.attempts:,} | {each.passes:,} | {each.attempts - each.passes:,} | {each.seconds:.1f} |"


def heading(end:str, words:list[str]) -> Iterator[str]:
    "What stands above the table."
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    yield "# Faults\n\n> What the package promises when things go wrong, and how often that was tried\n"
    yield f"{datetime.date.today()}, commit {commit}, Python {platform.python_version()}: {end}.\n"
    yield f"Made by `python tools/scoreboard.py{' --long' * ('--long' in words)}`. Attempts are counted by the tests themselves; what stands for each line is in `tests/faults.toml`. A loss is an attempt that did not end as it says; a miss is a test that was not there, or was skipped."


def is_well(each:Line) -> bool: return each.attempts == each.passes > 0 and not each.misses


def totals(lines:list[Line], tests:list[Told], seconds:float) -> str:
    "A test that stands for several cases counts in each, and once here."
    tried = sum(each.attempts.get("", 0) + (each.outcome == "failed") or each.outcome == "passed" for each in tests)
    lost = sum(each.outcome == "failed" for each in tests)
    return f"{len(lines)} cases, {sum(map(is_well, lines))} as promised, {sum(not is_well(each) for each in lines)} not; {len(tests)} tests, {tried:,} attempts, {lost} lost; {seconds:.0f} s"


def main(words:list[str]) -> int:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--long", action="store_true", help=f"more attempts, as at night: {' '.join(f'{name}={value}' for name, value in LONG.items())}")
    asked.add_argument("--only", nargs="+", metavar="CASE", help="numbers of cases, or 'independent'", default=[])
    asked.add_argument("--report", type=Path, metavar="FILE", help=f"run no test, and read what a run of pytest wrote there (--junitxml=FILE {' '.join(REPORT)})")
    asked.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there as well")
    options = asked.parse_args(words)
    environment = {**(LONG if options.long else {}), **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    cases = wanted(tomllib.loads(TABLE.read_text(encoding="utf-8")), options.only)
    began = time.monotonic()
    tests = told_in(options.report) if options.report else run_tests(tests_of(cases), environment)
    lines = [line(case, tests, environment) for case in cases]
    end = totals(lines, [each for each in tests if any(stands_for(pattern, each.name) for case in cases for pattern in case.get("tests", []))], time.monotonic() - began)
    print(*text(lines), "", end, sep="\n")
    if options.markdown: options.markdown.write_text("\n".join([*heading(end, words), *markdown(lines), ""]), encoding="utf-8")
    return 0 if all(map(is_well, lines)) else 1


def wanted(table:dict[str, Any], only:list[str]) -> list[dict]:
    found = [*table["case"], *({"number": "", "group": "Independent checks", **each} for each in table.get("independent", []))]
    known = dict.fromkeys(str(case["number"]) or "independent" for case in found)
    if unknown := [each for each in only if each not in known]: sys.exit(f"there is no case {', '.join(unknown)}. Cases: {', '.join(known)}")
    return [case for case in found if not only or (str(case["number"]) or "independent") in only]


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
