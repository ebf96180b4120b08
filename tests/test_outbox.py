"""Messages reach a real program at least once though processes are killed, and only once though several tell at the same time."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml_pkg.channels import Command, Message
from ml_pkg.outbox import Outbox

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are killed by a signal")

RINGS = '''
import os, sys
handle = os.open("rung.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(handle, (os.environ["ML_PKG_ALARM_ID"] + "\\n").encode())
if os.path.exists("kill"):
    os.remove("kill")
    os.kill(os.getppid(), 9)
''' # notes what it is told; once, it kills whoever told it before that could note it

DELIVERS = '''
import sys
from datetime import datetime
from pathlib import Path
from ml_pkg.channels import Command
from ml_pkg.outbox import Outbox
print("ready", flush=True)
input()
print(Outbox(Path("outbox")).deliver([Command((sys.executable, "rings.py"))], datetime.fromisoformat(sys.argv[1])).told)
'''

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
BELL = Command((sys.executable, "rings.py"))


@pytest.fixture
def here(tmp_path:Path, monkeypatch:pytest.MonkeyPatch) -> Path:
    "A working directory with the program that is told."
    monkeypatch.chdir(tmp_path)
    Path("rings.py").write_text(RINGS)
    return tmp_path


def delivering() -> subprocess.Popen:
    "A process that delivers when it gets a line."
    process = subprocess.Popen([sys.executable, "-c", DELIVERS, NOW.isoformat()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def rung() -> list[str]: return Path("rung.txt").read_text().split()


def test_a_process_that_is_killed_before_it_can_note_that_it_told_tells_again_with_the_same_id(here:Path):
    box = Outbox(here / "outbox")
    box.add([Message("age", "age moved", "")], [BELL])
    Path("kill").touch()
    killed = delivering()
    killed.communicate("\n", timeout=60)
    assert killed.returncode == -9 and rung() == ["age"]
    [waiting] = box.deliver([BELL], NOW).waiting
    assert (waiting.tries, waiting.why) == (1, "a try was begun, and nothing more is known of it") and rung() == ["age"]
    assert box.deliver([BELL], NOW + timedelta(minutes=1)).told == 1 and rung() == ["age", "age"]
    assert box.deliver([BELL], NOW + timedelta(hours=1)).is_complete and rung() == ["age", "age"]


def test_processes_that_deliver_at_once_tell_each_message_once(here:Path):
    Outbox(here / "outbox").add([Message(f"m{number}", "", "") for number in range(12)], [BELL])
    processes = [delivering() for _ in range(4)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    told = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert sorted(told) == [0, 0, 0, 12] and rung() == [f"m{number}" for number in range(12)], told # one at a time, so in their order
