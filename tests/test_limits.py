"""A real server under slow clients, ten times its capacity, and bodies without end: it answers, stays small, and recovers."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_pkg.tokens import Rate, add_token, remove_token
from ml_pkg.workspace import Workspace

SERVER = '''
import asyncio, dataclasses, json, os, resource, socket, sys, time
from concurrent.futures import ThreadPoolExecutor
from ml_pkg.heap import hand_back_freed
from ml_pkg.connections import Line, bounded_server, possible_connections
from ml_pkg.limits import Bearer, Limited, Limits, Sheltered, hosts_of
from ml_pkg.tokens import TokenSource
from ml_pkg.workspace import Workspace

files, seconds, options = int(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
limits = Limits(**options)
hand_back_freed()
line = Line(dataclasses.replace(limits, connections=possible_connections(limits.connections)))
one_by_one = ThreadPoolExecutor(1)

LARGE = b"x" * 5_000_000

def memory(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

async def model(scope, receive, send):
    if scope["path"] == "/health": answer = {"memory": memory(), "working": limited.working, "held": limited.held, "reading": len(limited.reading), "waiting": len(line.waiting), "unsent": len(line.unsent), "closed": line.closed}
    elif scope["path"] == "/broken": open("/somewhere/secret/model.mlpkg")
    elif scope["path"] == "/large": return await answered(send, LARGE)
    else:
        body = (await receive()).get("body", b"")
        if seconds: await asyncio.get_running_loop().run_in_executor(one_by_one, time.sleep, seconds)
        answer = {"bytes": len(body)}
    await answered(send, json.dumps(answer).encode())

async def answered(send, content):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(content)).encode()), (b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": content})

limited = Limited(model, limits)
listening = socket.create_server(("127.0.0.1", 0))
port = listening.getsockname()[1]
source = TokenSource(Workspace.current(), every=0.2)
app = Sheltered(Bearer(limited, source.current) if len(source.current()) else limited, hosts_of(port, source.current()))
print(port, flush=True)
bounded_server(app, line, lifespan="off", log_level="error").run([listening])
'''

PATIENCE = float(os.environ.get("ML_PKG_PATIENCE", 1.0))  # seconds that an answer about the server's health may take at worst, with two busy cores
RECOVERY = float(os.environ.get("ML_PKG_RECOVERY", 2.0)) # seconds after which everything is as before: what is promised
GROWTH = 100e6   # bytes that a server may grow by


class Served:
    "A server in a process of its own."
    def __init__(self, process:subprocess.Popen, port:int, log:Path): self.process, self.port, self.log = process, port, log

    def health(self, timeout:float=PATIENCE) -> dict:
        "As somebody finds it who was not connected before."
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as connection:
            connection.request("GET", "/health", headers={"connection": "close"})
            return json.load(connection.getresponse())

    def settles(self, **wanted:int) -> float:
        "Seconds until its health is as wanted and a request is answered."
        began = time.perf_counter()
        while time.perf_counter() - began < 10:
            found = self.health()
            if all(found[name] <= value for name, value in wanted.items()) and self.predict().status_code == 200: return time.perf_counter() - began
            time.sleep(0.02)
        raise AssertionError(f"{found} after ten seconds, and {wanted} was expected")

    def predict(self, **options) -> httpx.Response: return httpx.post(f"http://127.0.0.1:{self.port}/predict", **{"content": b"12345", "timeout": 10, **options})


@pytest.fixture
def serve(tmp_path:Path) -> Iterator[Callable[..., Served]]:
    "Starts servers: with how many open files, how long a request takes, and limits."
    started = []
    def start(files:int=1024, seconds:float=0.0, **limits) -> Served:
        log = tmp_path / "log.txt"
        with log.open("w") as errors: process = subprocess.Popen([sys.executable, "-c", SERVER, str(files), str(seconds), json.dumps(limits)], stdout=subprocess.PIPE, stderr=errors, text=True)
        started.append(process)
        served = Served(process, int(process.stdout.readline()), log)
        for _ in range(100):
            with contextlib.suppress(OSError): return served.health() and served
            time.sleep(0.05)
        raise AssertionError(log.read_text())
    yield start
    for process in started:
        process.kill()
        process.wait()


async def drip(port:int, head:bytes, drop:bytes, until:float) -> str:
    "One slow client: a part of a request at once, then a byte a second, for as long as it is let. How it ended."
    try: reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError: return "not connected"
    try:
        writer.write(head)
        while time.perf_counter() < until:
            with contextlib.suppress(TimeoutError):
                found = await asyncio.wait_for(reader.read(65536), 1.0)
                return found.split()[1].decode() if found else "closed"
            writer.write(drop)
            await writer.drain()
        return "held on"
    except OSError: return "closed"
    finally: writer.close()


async def watched(served:Served, attack:Awaitable) -> tuple[Any, list[float], int]:
    "What came of an attack, how long the answers about health took meanwhile, and how much the server grew."
    before, latencies, largest, over = served.health()["memory"], [], 0, threading.Event()
    def watch() -> None:
        nonlocal largest
        while not over.wait(0.05):
            began = time.perf_counter()
            largest = max(largest, served.health(timeout=10)["memory"])
            latencies.append(time.perf_counter() - began)
    watching = asyncio.create_task(asyncio.to_thread(watch))
    try: return await attack, latencies, largest - before
    finally:
        over.set()
        await watching


HEADERS, HEADER = b"POST /predict HTTP/1.1\r\nhost: ", b"1"
BODY, DROP = b"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-length: 100000\r\n\r\n", b"x"


def test_five_hundred_slow_clients(serve, attempts:Callable):
    "Half of them drip headers, half bodies: they hold no place, and are closed when their time is over."
    served = serve(header_seconds=3, read_seconds=3, working=4)
    async def attack() -> tuple[list[int], Counter]:
        until = time.perf_counter() + 7
        slow = asyncio.gather(*(drip(served.port, *((HEADERS, HEADER) if number % 2 else (BODY % served.port, DROP)), until) for number in range(500)))
        await asyncio.sleep(2)
        meanwhile = [(await asyncio.to_thread(served.predict, timeout=PATIENCE)).status_code for _ in range(20)]
        return meanwhile, Counter(await slow)
    (meanwhile, ended), latencies, grown = asyncio.run(watched(served, attack()))
    settled = served.settles(working=0, held=0, reading=0, waiting=1)
    print(f"slow clients ended {dict(ended)}; health at worst {max(latencies):.3f} s of {len(latencies)}; grown {grown / 1e6:.1f} MB; settled in {settled:.3f} s")
    assert meanwhile == [200] * 20
    assert ended["408"] >= 450 and ended["held on"] == 0
    assert max(latencies) < PATIENCE and grown < GROWTH and settled < RECOVERY
    attempts(ended.total())


def test_a_burst_waits_while_the_server_is_busy(serve, attempts:Callable):
    "Whoever finds no place in the system's queue tries again after a second. A process that is stopped is one that is as busy as can be."
    served = serve(working=4)
    with contextlib.ExitStack() as stack:
        os.kill(served.process.pid, signal.SIGSTOP)
        try: clients = [stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=0.5)) for _ in range(400)]
        finally: os.kill(served.process.pid, signal.SIGCONT)
        for client in clients: client.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % served.port)
        for client in clients: client.settimeout(10)
        assert Counter(client.recv(12) for client in clients) == {b"HTTP/1.1 200": 400}
    attempts(400)


def test_more_slow_clients_than_files(serve, attempts:Callable):
    "The oldest make room, so that somebody new is heard."
    served = serve(files=256, header_seconds=30)
    async def later(number:int) -> str:
        await asyncio.sleep(number / 250) # within a few milliseconds they would take the place of whoever is new as well
        return await drip(served.port, HEADERS, HEADER, time.perf_counter() + 4)
    async def attack() -> list[str]: return await asyncio.gather(*map(later, range(500)))
    ended, latencies, grown = asyncio.run(watched(served, attack()))
    settled = served.settles(waiting=1)
    print(f"slow clients ended {dict(Counter(ended))}; health at worst {max(latencies):.3f} s of {len(latencies)}; grown {grown / 1e6:.1f} MB; settled in {settled:.3f} s")
    assert max(latencies) < PATIENCE and settled < RECOVERY
    assert Counter(ended)["held on"] <= 256
    attempts(len(ended))


def test_ten_times_capacity(serve, attempts:Callable):
    "A hundred requests a second can be answered, and ten times as many come: as many are answered, the others are told at once to come again."
    served = serve(seconds=0.01, working=8)
    request = b"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-length: 5\r\n\r\n12345" % served.port
    async def client(until:float) -> list[tuple[int, bool, float]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        found = []
        while time.perf_counter() < until:
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
            found.append((int(head.split()[1]), b"retry-after: 1\r\n" in head, time.perf_counter() - began))
            await asyncio.sleep(0.1)
        writer.close()
        return found
    async def attack() -> list: return sum(await asyncio.gather(*(client(time.perf_counter() + 4) for _ in range(100))), [])
    answers, latencies, grown = asyncio.run(watched(served, attack()))
    settled = served.settles(working=0)
    counts = Counter(answer[:2] for answer in answers)
    print(f"{dict(counts)} in 4 s; at worst {max(answer[2] for answer in answers):.3f} s; health at worst {max(latencies):.3f} s; grown {grown / 1e6:.1f} MB; settled in {settled:.3f} s")
    assert set(counts) == {(200, False), (503, True)}
    assert counts[200, False] > 200 and counts[503, True] > 4 * counts[200, False] # 400 could be answered, if nobody else were on this machine
    assert max(latencies) < PATIENCE and grown < GROWTH and settled < RECOVERY
    attempts(len(answers))


async def pour(port:int, head:bytes, part:bytes, count:int) -> tuple[int, int]:
    "Send a body as fast as it is taken; the status, and the parts that were."
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    status, sent = asyncio.ensure_future(reader.read(65536)), 0
    try:
        writer.write(head)
        while sent < count:
            writer.write(part)
            await writer.drain()
            sent += 1
    except OSError: pass
    finally: writer.close()
    try: return int((await status).split()[1]), sent
    except (OSError, IndexError): return 0, sent


CHUNKED = b"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ntransfer-encoding: chunked\r\n\r\n"


def test_bodies_without_end(serve, attempts:Callable):
    "A gigabyte each, in chunks, or announced: the answer comes through, then the connection is closed, and memory does not grow."
    served = serve()
    async def attack() -> list:
        chunk = b"%x\r\n%s\r\n" % (100_000, b"x" * 100_000)
        announced = (BODY % served.port).replace(b"100000", b"1000000000")
        return await asyncio.gather(*(pour(served.port, CHUNKED % served.port, chunk, 10_000) for _ in range(20)), *(pour(served.port, announced, b"x" * 100_000, 10_000) for _ in range(20)))
    answers, latencies, grown = asyncio.run(watched(served, attack()))
    settled = served.settles(held=0, waiting=1)
    print(f"{dict(Counter(status for status, _ in answers))}; {sum(sent for _, sent in answers) / 10:,.0f} MB taken and forgotten; health at worst {max(latencies):.3f} s; grown {grown / 1e6:.1f} MB; settled in {settled:.3f} s")
    assert [status for status, _ in answers] == [413] * 40
    attempts(40)
    assert all(sent < 10_000 for _, sent in answers)
    assert max(latencies) < PATIENCE and grown < GROWTH and settled < RECOVERY


def test_ordinary_clients_see_why(serve):
    "What refuses a body that is underway reaches clients that first send all of it."
    served = serve()
    answer = served.predict(content=b"x" * 3_000_000)
    assert (answer.status_code, answer.json()["error"]["status"], answer.headers["connection"]) == (413, 413, "close")
    assert served.predict(content=(b"x" * 10_000 for _ in range(300))).status_code == 413
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port)) as connection:
        connection.request("POST", "/predict", b"x" * 3_000_000)
        assert connection.getresponse().status == 413
    assert served.predict(content=b"x" * 1_000_000).json() == {"bytes": 1_000_000}


def test_answers_that_are_not_taken(serve):
    "They hold no more than their share, and no longer than their time."
    served = serve(write_seconds=2, held=30_000_000)
    before, greedy = served.health()["memory"], []
    for _ in range(100):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", served.port))
        connection.sendall(b"GET /large HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % served.port)
        greedy.append(connection)
    held = served.health(timeout=10)
    time.sleep(3)
    after = served.health()
    print(f"{held['unsent']} answers waiting, then {after['unsent']}; grown {(held['memory'] - before) / 1e6:.1f} MB")
    assert 1 <= held["unsent"] < 20 and after["unsent"] == 0 and held["memory"] - before < GROWTH
    for connection in greedy: connection.close()


HOSTILE = {
    "nothing": b"\r\n\r\n", "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "a traversal": b"GET /../../../etc/passwd HTTP/1.1\r\nhost: %s\r\n\r\n", "an encoded one": b"GET /%%2e%%2e/%%00 HTTP/1.1\r\nhost: %s\r\n\r\n",
    "another host": b"GET / HTTP/1.1\r\nhost: evil.example\r\n\r\n", "no host": b"GET / HTTP/1.1\r\n\r\n", "two hosts": b"GET / HTTP/1.1\r\nhost: %s\r\nhost: b\r\n\r\n", "another origin": b"POST /predict HTTP/1.1\r\nhost: %s\r\norigin: http://evil.example\r\ncontent-length: 0\r\n\r\n",
    "an error inside": b"GET /broken HTTP/1.1\r\nhost: %s\r\n\r\n", "a line within the path": b"GET /broken%%0d%%0aX:1 HTTP/1.1\r\nhost: %s\r\n\r\n", "two lengths": b"POST / HTTP/1.1\r\nhost: %s\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", "length and chunks": b"POST / HTTP/1.1\r\nhost: %s\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": b"POST / HTTP/1.1\r\nhost: %s\r\ncontent-length: -5\r\n\r\n", "a bad chunk": b"POST / HTTP/1.1\r\nhost: %s\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "too long": b"POST / HTTP/1.1\r\nhost: %s\r\ncontent-length: 99999999\r\n\r\n", "a long header": b"GET / HTTP/1.1\r\nhost: %s\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nhost: %s\r\n" + b"x: y\r\n" * 20_000 + b"\r\n", "a folded header": b"GET / HTTP/1.1\r\nhost: %s\r\nx: y\r\n z\r\n\r\n", "a NUL": b"GET / HTTP/1.1\r\nhost: %s\r\nx: \x00\r\n\r\n", "an upgrade": b"GET / HTTP/1.1\r\nhost: %s\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n",
    "half a body": b"POST /predict HTTP/1.1\r\nhost: %s\r\ncontent-length: 10\r\n\r\n123", "half a header": b"GET / HTTP/1.1\r\nhost: %s\r\nx",
}


def test_no_answer_gives_anything_away(serve, attempts:Callable):
    "Every refusal has the one form, and neither a traceback, nor a path, nor what the server is made of."
    served = serve(header_seconds=0.5, read_seconds=0.5, keep_seconds=0.3)
    statuses = {}
    for name, request in HOSTILE.items():
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as connection:
            with contextlib.suppress(OSError): connection.sendall(request.replace(b"%s", b"127.0.0.1:%d" % served.port).replace(b"%%", b"%"))
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(65536): answer += part
        head, _, body = answer.partition(b"\r\n\r\n")
        statuses[name] = int(head.split()[1]) if head else 0
        assert statuses[name] in (0, 200) or json.loads(body)["error"]["status"] == statuses[name], (name, answer)
        for word in (b"Traceback", b"File ", b".py", b"/somewhere", b"uvicorn", b"python", b"secret"): assert word not in answer, (name, answer)
    print(statuses)
    expected = {"not HTTP": 400, "another host": 421, "no host": 421, "two hosts": 421, "another origin": 403, "an error inside": 500, "two lengths": 400, "length and chunks": 400, "a negative length": 400, "a bad chunk": 400, "too long": 413, "a long header": 431, "many headers": 431, "half a body": 408, "half a header": 408}
    assert {name: statuses[name] for name in expected} == expected
    attempts(len(HOSTILE))
    assert "/somewhere/secret" in served.log.read_text()


def test_tokens_of_a_running_server(serve, here:Workspace):
    "One is asked for, keeps to its rate, and counts no more soon after it was removed."
    reader, writer = add_token(here, "reader", Rate(per_second=1, burst=3)), add_token(here, "writer")
    served = serve()
    def status(secret:str) -> int: return served.predict(headers={"authorization": f"Bearer {secret}"}).status_code
    assert [status(reader) for _ in range(4)] == [200, 200, 200, 429]
    assert [status(secret) for secret in (writer, "x", writer[:-1], "mlp_" + "A" * 43)] == [200, 401, 401, 401]
    assert served.health()["working"] == 0
    remove_token(here, "writer")
    time.sleep(0.4)
    assert status(writer) == 401
    remove_token(here, "reader")
    time.sleep(0.4)
    assert status(reader) == 401 # none are left, and nobody is let in for that
