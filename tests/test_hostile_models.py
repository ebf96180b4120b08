"""Files that pretend to be models: through every way of loading, none runs what it brings, and each is refused in words."""

import bz2
import contextlib
import functools
import hashlib
import io
import json
import operator
import os
import pickle
import re
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_iris
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skops.io._audit import NODE_TYPE_MAPPING

from ml_pkg.addresses import find_model
from ml_pkg.archive import export, import_
from ml_pkg.errors import MlPkgError, UntrustedFile
from ml_pkg.experiments.iris import iris
from ml_pkg.model import Model
from ml_pkg.persistence import digest_of
from ml_pkg.registry import register
from ml_pkg.schema import learn_schema
from ml_pkg.store import connected, transaction
from ml_pkg.workspace import Workspace

ATTEMPT = '''
"Loads each file of a list in each way, and says what came of it, as JSON lines."
import json, os, resource, sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import pandas as pd
import skops.io
from ml_pkg import MlPkgError, Model, Workspace, find_model
from ml_pkg.archive import import_
resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))
rows, expected = pd.read_json(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text())
doubtful = []
WATCHED = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn", "socket.connect", "os.putenv", "os.remove", "os.rename", "os.mkdir", "shutil.rmtree", "ctypes.dlopen", "pickle.find_class", "code.__new__"}
def watch(event, arguments):
    if not watching: return
    if event in WATCHED or event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"): doubtful.append(f"{event} {arguments!r}"[:200])
    elif event == "import" and "canary" in str(arguments[0]): doubtful.append(f"import {arguments[0]}")
watching = False
Model.load(sys.argv[4]).predict(rows) # what loads late is loaded
sys.addaudithook(watch)
WAYS = {"Model.load": lambda path: Model.load(path), "find_model": lambda path: find_model(str(path)), "import": lambda path: import_(path, empty)}
if sys.argv[5:]: WAYS = {"trusted": lambda path: Model.load(path, trusted=True)}
empty = Workspace(Path.cwd()/"empty")
def memory(kind): return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(kind))
def outcome(load, path):
    try: model = load(path)
    except MlPkgError as error: return "refused", type(error).__name__, str(error)
    except BaseException as error: return "raw", type(error).__name__, str(error)
    try: found = model.predict(rows).tolist()
    except MlPkgError as error: return "refused at predict", type(error).__name__, str(error)
    except BaseException as error: return "raw at predict", type(error).__name__, str(error)
    return ("same" if found == expected else "other answers"), "", ""
for line in open(sys.argv[1], encoding="utf-8"):
    path = Path(json.loads(line))
    for way, load in WAYS.items():
        doubtful.clear()
        Path("/proc/self/clear_refs").write_text("5") # the most memory so far is counted anew
        before, began, watching = memory("VmRSS"), time.perf_counter(), True
        what, kind, said = outcome(load, path)
        watching = False
        print(json.dumps({"path": str(path), "way": way, "what": what, "kind": kind, "said": said[:500], "seconds": time.perf_counter() - began, "ran": doubtful[:3], "memory": memory("VmHWM") - before}), flush=True)
'''

MEMORY = 100e6   # bytes that an attempt may take at most, besides 25 times the size of the file
PATIENCE = 10.0  # seconds that one attempt may take at most


class Corpus:
    "Hostile files by kind, made from a model that is good."
    def __init__(self, folder:Path):
        self.folder, self.marker, self.files = folder, folder / "marker", {}
        folder.mkdir(parents=True, exist_ok=True)
        X, y = load_iris(return_X_y=True, as_frame=True)
        y = y.map(dict(enumerate(("setosa", "versicolor", "virginica"))))
        self.rows, self.estimator = X.iloc[::25], make_pipeline(SelectKBest(k=2), LogisticRegression(max_iter=1000)).fit(X, y)
        self.model = Model(self.estimator, learn_schema(X), {"name": "flowers", "key": "k", "target": ["species"], "task": "classification"})
        self.good = self.model.save(folder / "good.mlpkg")
        with zipfile.ZipFile(self.good) as archive: self.members = {name: archive.read(name) for name in archive.namelist()}
        self.manifest = json.loads(self.members["manifest.json"])

    def path(self, kind:str, name:str) -> Path:
        folder = self.folder / kind.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        path = folder / f"{len(list(folder.iterdir()))}-{''.join(each if each.isalnum() else '-' for each in name)[:60]}.mlpkg"
        self.files.setdefault(kind, []).append(path)
        return path

    def raw(self, kind:str, name:str, content:bytes) -> Path:
        path = self.path(kind, name)
        path.write_bytes(content)
        return path

    def sealed(self, kind:str, name:str, changes:dict[str, bytes], about:dict|None=None, signature:bytes|None=None, compression:int=zipfile.ZIP_STORED) -> Path:
        "A file whose digests are right, as anybody can make one; without the signature of this user."
        members = {name: content for name, content in self.members.items() if name not in ("manifest.json", "signature")} | changes
        stated = {**self.manifest, "members": {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}} | (about or {})
        manifest = changes.get("manifest.json") or json.dumps(stated).encode()
        path = self.path(kind, name)
        with zipfile.ZipFile(path, "w", compression, compresslevel=1) as archive:
            archive.writestr(zipfile.ZipInfo("manifest.json"), manifest)
            if signature is not None: archive.writestr(zipfile.ZipInfo("signature"), signature)
            for name, content in members.items():
                if name != "manifest.json": archive.writestr(name, content)
        return path

    def estimator_of(self, kind:str, name:str, content:bytes, persister:Any="skops", **options) -> Path: return self.sealed(kind, name, {"estimator": content}, {"persister": persister}, **options)


class Reduced:
    "Pickled, it is a call."
    def __init__(self, function:Callable, *arguments): self.call = function, arguments
    def __reduce__(self): return self.call


def pickles(corpus:Corpus) -> None:
    "Calls of every kind, plain and hidden, under either name, with no signature or a stranger's."
    touch = f"touch {corpus.marker}"
    python = f"import os; os.system({touch!r})"
    payloads = {
        "os system": Reduced(os.system, touch), "eval": Reduced(eval, f"__import__('os').system({touch!r})"), "exec": Reduced(exec, python), "popen": Reduced(subprocess.Popen, ["touch", str(corpus.marker)]),
        "nested": Reduced(list, Reduced(map, Reduced(operator.methodcaller, "touch"), [corpus.marker])), "nested in an estimator": FunctionTransformer(kw_args={"a": Reduced(exec, python)}),
        "through apply": Reduced(functools.reduce, Reduced(operator.attrgetter, "real"), [Reduced(exec, python)]), "open": Reduced(open, str(corpus.marker), "w"),
    }
    contents = {name: pickle.dumps(payload) for name, payload in payloads.items()} | {"old protocol": pickle.dumps(payloads["exec"], 0)}
    contents["by hand"] = f"cos\nsystem\n(S'{touch}'\ntR.".encode()
    contents["instance by hand"] = f"(S'{touch}'\nios\nsystem\n.".encode()
    contents["long before"] = pickle.dumps(list(range(1000)))[:-1] + b"0" + contents["by hand"]
    contents.update(injected(corpus, python))
    for name, content in contents.items():
        for persister in ("pickle", "joblib", "skops"):
            corpus.estimator_of("pickles", f"{name} {persister}", content, persister)
            corpus.estimator_of("pickles", f"{name} {persister} signed", content, persister, signature=hashlib.sha256(b"mine").digest())
        corpus.estimator_of("pickles", f"{name} zlib", zlib.compress(content), "joblib")
        corpus.raw("pickles", name, content)
        corpus.raw("pickles", f"{name} bz2", bz2.compress(content))


def injected(corpus:Corpus, python:str) -> dict[str, bytes]:
    "What fickling adds to a pickle of a good model."
    from fickling.fickle import Pickled
    found = {}
    for run_first in (True, False):
        for use_exec in (True, False):
            pickled = Pickled.load(pickle.dumps(corpus.estimator))
            if use_exec: pickled.insert_python_exec(python, run_first=run_first)
            else: pickled.insert_python_eval(f"__import__('os').system('touch {corpus.marker}')", run_first=run_first)
            found[f"injected {run_first} {use_exec}"] = pickled.dumps()
    return found


class Foreign:
    "A class that nobody has vouched for."
    def touch(self): pass
    def __setstate__(self, state): Path(state["marker"]).touch()


CANARY = "canary_of_models" # a module that leaves a mark when it is imported

HOSTILE_TYPES = [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"), ("builtins", "__import__"), ("subprocess", "Popen"), ("operator", "methodcaller"), ("operator", "attrgetter"), ("functools", "partial"),
    ("importlib", "import_module"), ("pickle", "loads"), ("joblib", "load"), ("numpy", "load"), (CANARY, "Anything"), ("sklearn.datasets", "load_files"), ("numpy.lib.npyio", "load"), ("sklearn.utils.fixes", "os.system"), ("sklearn.linear_model", "sys"), ("sklearn", "os")]


def nodes(state:Any, place:tuple=()) -> Iterator[tuple[tuple, dict]]:
    "The nodes of a description by skops, and where they are."
    if isinstance(state, dict):
        if "__loader__" in state: yield place, state
        for name, value in state.items(): yield from nodes(value, (*place, name))
    elif isinstance(state, list):
        for number, value in enumerate(state): yield from nodes(value, (*place, number))


def described(content:bytes) -> tuple[dict, dict[str, bytes]]:
    "The description in a file of skops, and the other members."
    with zipfile.ZipFile(io.BytesIO(content)) as archive: members = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(members.pop("schema.json")), members


def skops_file(state:Any, members:dict[str, bytes], compression:int=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression, compresslevel=1) as archive:
        archive.writestr("schema.json", state if isinstance(state, bytes) else json.dumps(state))
        for name, content in members.items(): archive.writestr(name, content)
    return buffer.getvalue()


def changed(state:dict, place:tuple, change:Callable[[dict], Any]) -> dict:
    "A copy with one node changed or replaced."
    state = json.loads(json.dumps(state))
    if not place: return change(state) or state
    holder = functools.reduce(lambda inside, name: inside[name], place[:-1], state)
    holder[place[-1]] = change(holder[place[-1]]) or holder[place[-1]]
    return state


def skops_files(corpus:Corpus) -> None:
    "Foreign types, methods and operators, as skops itself writes them, and as somebody writes who knows how it reads."
    touch, foreign = f"touch {corpus.marker}", Foreign()
    foreign.marker = str(corpus.marker)
    written = {
        "function": FunctionTransformer(os.system), "eval": FunctionTransformer(eval), "exec": FunctionTransformer(exec), "popen": FunctionTransformer(subprocess.Popen), "partial": FunctionTransformer(functools.partial(os.system, touch)),
        "foreign": FunctionTransformer(kw_args={"a": foreign}), "method": FunctionTransformer(foreign.touch), "a method of a type of ours": FunctionTransformer(corpus.model.save), "class": FunctionTransformer(Foreign), "methodcaller": FunctionTransformer(operator.methodcaller("system", touch)), "attrgetter": FunctionTransformer(operator.attrgetter("__class__.__base__")), "itemgetter": FunctionTransformer(operator.itemgetter(0)),
    }
    for name, estimator in written.items():
        try: content = skops.io.dumps(estimator)
        except Exception: continue # what cannot be written cannot be read
        corpus.estimator_of("skops, foreign", name, content)
        corpus.estimator_of("skops, foreign", f"{name} trusted", content, {"name": "skops", "trusted": ["os.system", "builtins.eval"]})
        state, members = described(content)
        types = sorted({f"{node['__module__']}.{node['__class__']}" for _, node in nodes(state)})
        for key in ("trusted", "__trusted__", "_trusted"): corpus.estimator_of("skops, trusted inside", f"{name} {key}", skops_file({**state, key: types}, members))
        corpus.sealed("skops, trusted inside", f"{name} manifest", {"estimator": content}, {"trusted": types, "persister": "skops"})
        corpus.sealed("skops, trusted inside", f"{name} true", {"estimator": content}, {"trusted": True, "ours": True, "persister": "skops"})
    state, members = described(corpus.members["estimator"])
    places = [place for place, _ in nodes(state)]
    for number, (module, kind) in enumerate(HOSTILE_TYPES):
        for place in places[number % 5::5]: corpus.estimator_of("skops, types", f"{module} {kind} {place}", skops_file(changed(state, place, lambda node, names=(module, kind): node.update(__module__=names[0], __class__=names[1])), members))
    loaders = sorted({loader for loader, _ in NODE_TYPE_MAPPING})
    for number, loader in enumerate(loaders):
        for place in places[number % 7::7]: corpus.estimator_of("skops, loaders", f"{loader} {place}", skops_file(changed(state, place, lambda node, loader=loader: node.update(__loader__=loader)), members))
    for protocol in (-1, 0, 1, 99, None, "0", 1e308, [], {}): corpus.estimator_of("skops, loaders", f"protocol {protocol}", skops_file({**state, "protocol": protocol}, members))
    handmade(corpus, state, members)


def node_of(loader:str, module:str, kind:str, content:Any, **more:Any) -> dict: return {"__loader__": loader, "__module__": module, "__class__": kind, "content": content, **more}


def handmade(corpus:Corpus, state:dict, members:dict[str, bytes]) -> None:
    "What was found wrong with skops before: names that were checked and names that were used, methods of what is trusted, loading by another format."
    text = functools.partial(lambda value: {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": json.dumps(value), "is_json": True})
    arguments = node_of("TupleNode", "builtins", "tuple", [text("system"), text(f"touch {corpus.marker}")])
    module = node_of("TypeNode", "builtins", "type", {"__module__": "posix", "__class__": "system"})
    trusted = ("sklearn.linear_model._logistic", "LogisticRegression")
    trials = {
        "operator under a trusted name": node_of("OperatorFuncNode", *trusted, None, attrs=arguments), "operator call": node_of("OperatorFuncNode", "operator", "call", None, attrs=arguments), "operator of builtins": node_of("OperatorFuncNode", "builtins", "eval", None, attrs=arguments), "methodcaller": node_of("OperatorFuncNode", "operator", "methodcaller", None, attrs=arguments),
        **{f"method {name}": node_of("MethodNode", "builtins", "function", {"func": name, "obj": next(nodes(state))[1]}) for name in ("__reduce__", "__class__", "fit.__globals__", "_repr_html_", "__init__.__globals__", "set_params", "__setstate__", "system")},
        **{f"method {name} under a trusted name": node_of("MethodNode", *trusted, {"func": name, "obj": next(nodes(state))[1]}) for name in ("__reduce__", "fit")},
        "method of a module": node_of("MethodNode", *trusted, {"func": "system", "obj": module}), "type": module, "function of a trusted module": node_of("FunctionNode", "sklearn.linear_model._logistic", "os.system", None), "old function": {**node_of("FunctionNode", "builtins", "function", {"module_path": "os", "function": "system"})},
        "reduce": node_of("ConstructorFromReduceNode", *trusted, module, reduce={"args": arguments, "constructor": module}), "object with reduce": node_of("ObjectNode", *trusted, text(1), reduce={"args": arguments, "constructor": module}), "partial": node_of("PartialNode", "functools", "partial", {"func": module, "args": arguments, "kwds": node_of("DictNode", "builtins", "dict", {}), "namespace": node_of("DictNode", "builtins", "dict", {})}),
        "json of another type": node_of("JsonNode", "os", "system", f'"touch {corpus.marker}"'), "default dict": node_of("DefaultDictNode", "collections", "defaultdict", {"main": node_of("DictNode", "builtins", "dict", {}), "default_factory": module}), "tuple of another type": node_of("TupleNode", "subprocess", "Popen", [text("touch"), text(str(corpus.marker))]), "list of another type": node_of("ListNode", CANARY, "Anything", []),
        "generator": node_of("RandomGeneratorNode", "numpy.random", "Generator", {"bit_generator": node_of("DictNode", "builtins", "dict", {"bit_generator": text("seed")}), "seed_seq": node_of("DictNode", "builtins", "dict", {})}),
        "bytes of another type": node_of("BytesNode", "os", "system", f"touch {corpus.marker}".encode().hex()), "slice": node_of("SliceNode", "os", "system", {"start": 0, "stop": 1, "step": None}),
    }
    steps = next(place for place, node in nodes(state) if node["__class__"] == "SelectKBest")
    for name, trial in trials.items():
        for protocol in (state["protocol"], 0):
            corpus.estimator_of("skops, by hand", f"{name} {protocol}", skops_file({**trial, "protocol": protocol, "_skops_version": "0.1"}, members))
            inside = changed(state, steps, lambda node, trial=trial: trial)
            corpus.estimator_of("skops, by hand", f"{name} inside {protocol}", skops_file({**inside, "protocol": protocol}, members))
    cycle = changed(state, steps, lambda node: {**node_of("CachedNode", *trusted, None), "__id__": state.get("__id__", 1)})
    corpus.estimator_of("skops, by hand", "cycle", skops_file(cycle, members))
    corpus.estimator_of("skops, by hand", "of itself", skops_file({**node_of("CachedNode", *trusted, None), "__id__": 1, "protocol": 2}, members))


def npy(shape:Any, dtype:str="<f8", content:bytes=b"", header:str|None=None) -> bytes:
    text = (header if header is not None else repr({"descr": dtype, "fortran_order": False, "shape": shape})).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + content


def arrays(corpus:Corpus) -> None:
    "Arrays of objects, of impossible shapes, and with code in their heads."
    state, members = described(corpus.members["estimator"])
    objects = io.BytesIO()
    np.save(objects, np.array([Reduced(os.system, f"touch {corpus.marker}")], dtype=object), allow_pickle=True)
    trials = {"objects": objects.getvalue(), "objects by hand": npy((1,), "|O", f"cos\nsystem\n(S'touch {corpus.marker}'\ntR.".encode()), "code": npy(None, header=f"__import__('os').system('touch {corpus.marker}')"), "code in a shape": npy(None, header=f"{{'descr': '<f8', 'fortran_order': False, 'shape': (__import__('os').system('touch {corpus.marker}'),)}}"),
        **{f"shape {shape}": npy(shape, content=b"\0" * 64) for shape in ((10**12,), (10**9,), (10**6, 10**6), (2**62,), (2**63,), (2**64,), (-1,), (2**62, 0), (0,), (), (2**31, 2**31, 2**31), "no", None, (1.5,), (True,), tuple([1] * 100))}, **{f"dtype {dtype}": npy((2,), dtype, b"\0" * 64) for dtype in ("|V1000000000", "<U1000000000", "|S2147483647", "no", "<M8[ns]", "<f8,<f8", "|O", "")},
        "deep": npy(None, header="(" * 5000), "long head": npy(None, header=" " * 200_000), "empty": b"", "a pickle": pickle.dumps(Reduced(os.system, f"touch {corpus.marker}")), "other": b"\x93NUMPY\xff\xff" + b"\xff" * 100, "a zip of objects": npz({"data.npy": objects.getvalue()})}
    for name, content in trials.items():
        for member in [name for name in members if name.endswith(".npy")][:2]: corpus.estimator_of("arrays", f"{name} {member}", skops_file(state, {**members, member: content}))
    sparse = {"__class__": "csr_matrix", "__module__": "scipy.sparse._csr", "__loader__": "SparseMatrixNode", "type": "scipy", "file": "a.npz", "protocol": state["protocol"], "_skops_version": "0.13"}
    for name, content in {"objects": npz({"format.npy": objects.getvalue()}), "bomb": npz({"format.npy": npy((), "|S3", b"csr"), "data.npy": npy((10**9,), "|u1", b"\0" * 10**9)}), "huge": npz({"format.npy": npy((), "|S3", b"csr"), **{f"{part}.npy": npy((10**12,)) for part in ("data", "indices", "indptr", "shape")}}), "none": b"", "a pickle": trials["a pickle"]}.items():
        corpus.estimator_of("arrays", f"sparse {name}", skops_file(sparse, {"a.npz": content}))


def npz(members:dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items(): archive.writestr(name, content)
    return buffer.getvalue()


def zip_of(entries:list[tuple[zipfile.ZipInfo | str, bytes]], compression:int=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression, compresslevel=1) as archive:
        for name, content in entries: archive.writestr(name, content)
    return buffer.getvalue()


def bombs(corpus:Corpus) -> None:
    "Little that becomes much: by what is declared, and by what is there."
    state, members = described(corpus.members["estimator"])
    zeros, array = b"\0" * 400_000_000, next(name for name in members if name.endswith(".npy"))
    for name, compression in (("deflated", zipfile.ZIP_DEFLATED), ("bzip2", zipfile.ZIP_BZIP2), ("lzma", zipfile.ZIP_LZMA)):
        small = zeros if compression == zipfile.ZIP_DEFLATED else zeros[:20_000_000]
        corpus.sealed("bombs", f"outer {name}", {"estimator": small}, compression=compression)
        corpus.estimator_of("bombs", f"inner {name}", skops_file(state, {**members, array: npy((len(small),), "|u1", small)}, compression))
        corpus.estimator_of("bombs", f"inner description {name}", skops_file(b'{"a": [' + b" " * len(small) + b"1]}", members, compression))
    del zeros, small
    with zipfile.ZipFile(io.BytesIO(skops_file(state, members, zipfile.ZIP_DEFLATED))) as whole: corpus.estimator_of("bombs", "compressed but small", whole.fp.getvalue())
    for name, declared in (("more than there is", 10**9), ("far more", 2**32 - 2), ("less than there is", 1), ("none", 0)): corpus.raw("bombs", f"declared {name}", declaring(corpus.good.read_bytes(), b"estimator", declared))
    corpus.estimator_of("bombs", "inner declared", declaring(corpus.members["estimator"], array.encode(), 2**32 - 2))
    corpus.raw("bombs", "one content many times", overlapping(20_000, 1_000_000))
    corpus.estimator_of("bombs", "inner, one content many times", overlapping(20_000, 1_000_000, schema=json.dumps(state).encode()))
    corpus.raw("bombs", "many members", zip_of([(f"m{number}", b"") for number in range(200_000)]))
    for name in ("card.json", "schema.json", "manifest.json"): corpus.sealed("bombs", f"many lists {name}", {name: b"[" + b"[]," * 1_000_000 + b"1]"})
    corpus.estimator_of("bombs", "many lists inside", skops_file(b"[" + b"[]," * 1_000_000 + b"1]", members))
    sparse = corpus.path("bombs", "a sparse file")
    with sparse.open("wb") as file: file.truncate(100 * 2**30)
    whole = corpus.path("bombs", "a sparse file with an end")
    hollow(whole, 100 * 2**30)


def declaring(content:bytes, name:bytes, size:int) -> bytes:
    "A zip file in which a member is said to have another size, in both places where that is said."
    content = bytearray(content)
    for mark, offset, place in ((b"PK\x03\x04", 30, 18), (b"PK\x01\x02", 46, 20)):
        at = -1
        while (at := content.find(mark, at + 1)) >= 0:
            if content[at + offset:at + offset + len(name)] == name: content[at + place:at + place + 8] = struct.pack("<II", size, size)
    return bytes(content)


def overlapping(count:int, size:int, schema:bytes=b"") -> bytes:
    "A zip file whose members all have the same bytes, which are there once."
    content = b"\0" * size
    local = lambda name, body: struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(body), len(body), len(body), len(name), 0) + name + body # noqa: E731
    parts, entries = [local(b"schema.json", schema)] if schema else [], [(b"schema.json", schema, 0)] if schema else []
    start = sum(map(len, parts))
    parts.append(local(b"member00000", content))
    entries += [(b"member00000", content, start)] * count
    listed = b"".join(struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, crc, len(body), len(body), len(name), 0, 0, 0, 0, 0, at) + name for (name, body, at), crc in zip(entries, [zlib.crc32(schema)] * bool(schema) + [zlib.crc32(content)] * count, strict=True))
    body = b"".join(parts)
    return body + listed + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(entries) % 65536, len(entries) % 65536, len(listed), len(body), 0)


def hollow(path:Path, size:int) -> None:
    "A well-formed zip file with one member of zeros, which takes no room on the disk."
    with zipfile.ZipFile(path, "w") as archive: archive.writestr("manifest.json", "{}")
    with path.open("r+b") as file:
        content = file.read()
        end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 46 + 9 + 28, size) + struct.pack("<4sIQI", b"PK\6\7", 0, size + 46 + 9 + 28, 1) + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
        extra = struct.pack("<2H3Q", 1, 24, size - 100, size - 100, 0)
        file.seek(0)
        file.write(struct.pack("<4s5H3I2H", b"PK\3\4", 45, 0, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1, 9, 0) + b"estimator" + content[:0])
        file.seek(size)
        file.write(struct.pack("<4s6H3I5H2I", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1, 9, 28, 0, 0, 0, 0, 2**32 - 1) + b"estimator" + extra + end)


def names(corpus:Corpus) -> None:
    "Members that want to be elsewhere, are something else, come twice, or are not there."
    entries = list(corpus.members.items())
    for name in ("../up", "/etc/cron.d/x", "C:\\x", "a\\b", "a/../../b", "./a", "a/", "estimator/", ".", "..", ".hidden", "a\0b", "estimator\0.txt", "nul", "\u202egnp", "e\u0301", "a" * 60_000, "a\nb", "~", "$HOME", "signature/", "manifest.json "):
        corpus.raw("names", f"added {name!r}", zip_of([*entries, (name, b"x")]))
        corpus.sealed("names", f"listed {name!r}", {name: b"x"})
        if "\0" in name: corpus.raw("names", f"patched {name!r}", zip_of([*entries, (name.replace("\0", "0"), b"x")]).replace(name.replace("\0", "0").encode(), name.encode()))
    for kind in (stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK):
        for member in ("estimator", "extra"):
            info = zipfile.ZipInfo(member)
            info.external_attr = (kind | 0o777) << 16
            corpus.raw("names", f"{member} as {kind:o}", zip_of([(info if name == member else name, content) for name, content in corpus.members.items()] + ([(info, b"/etc/passwd")] if member == "extra" else [])))
    for name in corpus.members:
        if name != "signature": corpus.raw("names", f"without {name}", zip_of([(other, content) for other, content in entries if other != name]))
        with contextlib.suppress(UserWarning): corpus.raw("names", f"twice {name}", zip_of([*entries, (name, b"another")]))
        corpus.raw("names", f"upper {name}", zip_of([*entries, (name.upper(), b"another")]))
        for bit in (0, 3, 11): corpus.raw("names", f"flag {bit} {name}", flagged(corpus.good.read_bytes(), name.encode(), bit))
    for text in ("{}", "[]", "null", "3", '"a"', "", "\ufeff{}"): corpus.sealed("names", f"manifest {text}", {"manifest.json": text.encode() or b" "})
    corpus.raw("names", "behind a script", b"#!/bin/sh\ntouch marker\n" + corpus.good.read_bytes())
    corpus.raw("names", "with a comment", corpus.good.read_bytes()[:-2] + b"\5\0hello")
    corpus.raw("names", "something behind", corpus.good.read_bytes() + b"more")
    corpus.raw("names", "two files", corpus.good.read_bytes() * 2)


def flagged(content:bytes, name:bytes, bit:int) -> bytes:
    "A zip file in which a member has one more flag: encrypted, sized later, named in UTF-8."
    content = bytearray(content)
    for mark, offset, place in ((b"PK\x03\x04", 30, 6), (b"PK\x01\x02", 46, 8)):
        at = -1
        while (at := content.find(mark, at + 1)) >= 0:
            if content[at + offset:at + offset + len(name)] == name: content[at + place + bit // 8] |= 1 << bit % 8
    return bytes(content)


def damage(corpus:Corpus) -> None:
    "A byte changed, or everything after it gone, all over the file."
    content = corpus.good.read_bytes()
    for place in [*range(0, len(content), max(1, len(content) // 100)), *range(len(content) - 400, len(content), 9)]:
        corpus.raw("flipped", str(place), content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1:])
        corpus.raw("cut", str(place), content[:place])
    for place in range(0, len(content), len(content) // 60):
        corpus.raw("flipped", f"bit {place}", content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1:])
        corpus.raw("flipped", f"lost {place}", content[:place] + content[place + 1:])
        corpus.raw("flipped", f"zeros {place}", content[:place] + b"\0" * 200 + content[place + 200:])


WRONG = [None, 5, -1, 1e308, True, "", "x", [], {}, [[]], [None], [{}], {"a": {}}, "\ud800", "a" * 100_000, [5], {"": None}]


def descriptions(corpus:Corpus) -> None:
    "JSON that is deep, is none, or says what no model says; the digests are right."
    deep = {"lists": b"[" * 100_000, "closed lists": b"[" * 100_000 + b"]" * 100_000, "objects": b'{"a":' * 100_000, "closed objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nan": b"NaN", "infinity": b"-Infinity", "overflow": b"1e999", "digits": b"9" * 5000, "twice": b'{"a": 1, "a": 2}', "no UTF-8": b"\xff\xfe", "half": b'{"a"', "UTF-16": '{"a": 1}'.encode("utf-16"), "nothing": b"", "surrogate": b'"\\ud800"'}
    for member in ("schema.json", "card.json", "manifest.json"):
        for name, content in deep.items(): corpus.sealed("descriptions", f"{member} {name}", {member: content or b" "})
        for wrong in WRONG: corpus.sealed("descriptions", f"{member} {wrong!r}", {member: json.dumps(wrong).encode()})
    for name, content in deep.items(): corpus.estimator_of("descriptions", f"estimator {name}", skops_file(content or b" ", {}))
    schema, card = json.loads(corpus.members["schema.json"]), json.loads(corpus.members["card.json"])
    for field in (*schema[0], "more"):
        for wrong in WRONG: corpus.sealed("descriptions", f"column {field} {wrong!r}", {"schema.json": json.dumps([{**schema[0], field: wrong}, *schema[1:]]).encode()})
    for field in ("name", "key", "target", "task", "classes", "scorers", "metrics", "versions", "run", "source"):
        for wrong in WRONG: corpus.sealed("descriptions", f"card {field} {wrong!r}", {"card.json": json.dumps({**card, field: wrong}).encode()})
    for field in ("format", "persister", "key", "versions", "members"):
        for wrong in WRONG: corpus.sealed("descriptions", f"manifest {field} {wrong!r}", {}, {field: wrong})
    for wrong in WRONG: corpus.sealed("descriptions", f"version {wrong!r}", {}, {"versions": {"scikit-learn": wrong}})
    corpus.sealed("descriptions", "columns twice", {"schema.json": json.dumps([*schema, schema[0]]).encode()})
    corpus.sealed("descriptions", "columns fewer", {"schema.json": json.dumps(schema[:2]).encode()})
    for name, estimator in {"a list": [1, 2], "a number": 5, "nothing": None, "a text": "predict", "not fitted": LogisticRegression(), "of other columns": LogisticRegression().fit([[1], [2]], [0, 1]), "a function": f_classif}.items():
        corpus.estimator_of("descriptions", f"estimator is {name}", skops.io.dumps(estimator))


def signatures(corpus:Corpus) -> None:
    "Digests and signatures that are wrong, another's, or of something else."
    payload = pickle.dumps(Reduced(os.system, f"touch {corpus.marker}"))
    for name, signature in {"none": b"", "short": b"x", "zeros": b"\0" * 32, "long": b"\0" * 10_000, "good": corpus.members["signature"], "of the other": hashlib.sha256(corpus.members["manifest.json"]).digest()}.items(): corpus.estimator_of("signatures", name, payload, "pickle", signature=signature)
    digest = hashlib.sha256(payload).hexdigest()
    for name, wrong in {"upper": digest.upper(), "short": digest[:-1], "none": None, "number": 5, "list": [digest], "of another": self_digest(corpus), "empty": ""}.items(): corpus.sealed("signatures", f"digest {name}", {"estimator": payload}, {"persister": "pickle", "members": {**corpus.manifest["members"], "estimator": wrong}}, signature=corpus.members["signature"])
    corpus.sealed("signatures", "members outside", {"estimator": payload}, {"persister": "pickle", "members": corpus.manifest["members"]}, signature=corpus.members["signature"])
    corpus.raw("signatures", "good manifest, another estimator", zip_of([(name, payload if name == "estimator" else content) for name, content in corpus.members.items()]))


def self_digest(corpus:Corpus) -> str: return corpus.manifest["members"]["estimator"]


def no_files(corpus:Corpus) -> None:
    "What is at the place of a file."
    corpus.path("no files", "folder").mkdir()
    os.mkfifo(corpus.path("no files", "pipe"))
    for name, target in (("zeros", "/dev/zero"), ("random", "/dev/urandom"), ("null", "/dev/null"), ("nowhere", corpus.folder / "nowhere"), ("itself", None)):
        path = corpus.path("no files", name)
        path.symlink_to(target or path)
    corpus.path("no files", "not there")
    corpus.raw("no files", "empty", b"")


MAKERS = (pickles, skops_files, arrays, bombs, names, damage, descriptions, signatures, no_files)
MAY_LOAD = {"flipped", "names", "descriptions", "skops, loaders", "skops, types", "arrays", "bombs"} # kinds in which a file can mean the same as the good one; then it gives the same answers


@pytest.fixture
def corpus(request:pytest.FixtureRequest, tmp_path:Path, monkeypatch:pytest.MonkeyPatch) -> Iterator[Corpus]:
    "The files of one maker, signed by another user, as what comes from elsewhere is."
    monkeypatch.setenv("ML_PKG_KEY", "somebody else's")
    made = Corpus(tmp_path / "files")
    request.param(made)
    (tmp_path / f"{CANARY}.py").write_text(f"from pathlib import Path\nPath({str(made.marker)!r}).touch()\n")
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)


def tried(corpus:Corpus, files:list[Path], folder:Path, *more:str) -> list[dict]:
    "What came of loading each of the files in each way, in a process of its own."
    rows, expected, listing = folder / "rows.json", folder / "expected.json", folder / "files.jsonl"
    corpus.rows.reset_index(drop=True).to_json(rows)
    expected.write_text(json.dumps(corpus.model.predict(corpus.rows).tolist()))
    listing.write_text("".join(json.dumps(str(path)) + "\n" for path in files))
    environment = {**os.environ, "ML_PKG_KEY": "mine", "PYTHONPATH": os.pathsep.join([str(corpus.folder.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", ATTEMPT, str(listing), str(rows), str(expected), str(corpus.good), *more], capture_output=True, text=True, timeout=120, env=environment, cwd=folder)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:], found[-1:])
    return found


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("corpus", MAKERS, ids=lambda maker: maker.__name__, indirect=True)
def test_no_payload_runs_and_each_is_refused(corpus:Corpus, tmp_path:Path, attempts:Callable):
    "Every file, through `Model.load` and `find_model`, and as an archive to import."
    for kind, files in corpus.files.items():
        found = tried(corpus, files, tmp_path)
        assert len(found) == 3 * len(files)
        counts, by = Counter(each["what"] for each in found), Counter(each["kind"] for each in found if each["kind"])
        print(f"{kind}: {len(found)} attempts, {dict(counts)}, by {dict(by)}; at most {max(each['memory'] for each in found) / 1e6:.0f} MB and {max(each['seconds'] for each in found):.2f} s")
        bad = [each for each in found if not is_as_it_should_be(each, kind)]
        assert not bad, f"{len(bad)}: " + "\n".join(map(str, bad[:100]))
        assert not corpus.marker.exists(), kind
        assert kind != "arrays" or by["TooLarge"], "what needs too much memory is told from what is damaged"
        attempts(len(found), kind)


def is_as_it_should_be(attempt:dict, kind:str) -> bool:
    "Refused in words, or the same as the good model; at no cost, and nothing happened."
    size = Path(attempt["path"]).stat().st_blocks * 512 if Path(attempt["path"]).is_file() else 0
    ended = attempt["what"] in ("refused", "refused at predict") or attempt["what"] == "same" and kind in MAY_LOAD and attempt["way"] != "import"
    return ended and not attempt["ran"] and attempt["memory"] < MEMORY + 25 * size and attempt["seconds"] < PATIENCE


ABOUT_TRUST = "trust or audit or bit_generator or reduce or node or operator or method" # of skops' tests; with ML_PKG_EVERY_BIT all, which takes a minute
OF_ARGUMENTS = "test_loads_from_str or test_trusted_bool_raises" # what skops' own function says of arguments that ours does not have


def test_skops_own_tests_hold_for_our_loader(attempts:Callable):
    "What skops promises of types and of forged files, asked of our loader in the place of its own."
    pytest.importorskip("skops.io.tests")
    chosen = f"not ({OF_ARGUMENTS})" if os.environ.get("ML_PKG_EVERY_BIT") else f"({ABOUT_TRUST}) and not ({OF_ARGUMENTS})"
    words = ["-q", "-p", "skops_by_ours", "-p", "no:cacheprovider", "-p", "no:xdist", "--pyargs", "skops.io.tests.test_audit", "skops.io.tests.test_persist", "-k", chosen]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]), "PYTEST_ADDOPTS": ""}
    done = subprocess.run([sys.executable, "-m", "pytest", *words], capture_output=True, text=True, timeout=600, env=environment, cwd=Path(__file__).parent)
    said = done.stdout[-3000:]
    assert done.returncode == 0, said
    passed, read = (int(re.search(pattern, said)[1]) for pattern in (r"(\d+) passed", r"(\d+) files were read by our loader"))
    assert passed > 400 and read > 50, said
    attempts(passed)


@pytest.mark.parametrize("corpus", [pickles], indirect=True)
def test_payloads_are_real(corpus:Corpus, tmp_path:Path):
    "Guards the tests above: who vouches for such a file runs it, and that is seen."
    files = [path for path in corpus.files["pickles"] if path.stem.split("-")[-1] in ("pickle", "joblib")]
    seen = tried(corpus, files, tmp_path, "trusted")
    assert sum(bool(each["ran"]) for each in seen) > 0.9 * len(seen)
    assert corpus.marker.exists()


def samples(corpus:Corpus) -> None:
    "Some of what is cheap to make."
    for maker in (pickles, signatures, no_files): maker(corpus)
    corpus.files = {kind: files if kind == "no files" else files[::9] for kind, files in corpus.files.items()}
    corpus.sealed("descriptions", "deep", {"schema.json": b"[" * 100_000})
    state, members = described(corpus.members["estimator"])
    corpus.estimator_of("arrays", "huge", skops_file(state, {name: npy((10**12,)) if name.endswith(".npy") else content for name, content in members.items()}))
    corpus.raw("bombs", "one content many times", overlapping(20_000, 1_000_000))


@pytest.fixture
def mine(monkeypatch:pytest.MonkeyPatch) -> None:
    "This user's key, which is not the one that the files were signed with."
    monkeypatch.setenv("ML_PKG_KEY", "mine")


@pytest.mark.parametrize("corpus", [samples], indirect=True)
def test_command_line(corpus:Corpus, command:Callable, project:Path, mine:None, attempts:Callable):
    "One line, exit code 2, and nothing is written."
    corpus.rows.to_csv(project / "rows.csv", index=False)
    for path in (each for files in corpus.files.values() for each in files[:3]):
        done = command("predict", str(path), "rows.csv", "-o", "out.csv")
        assert (done.returncode, done.stderr.count("\n"), "Traceback" in done.stderr) == (2, 1, False), (path, done.stderr)
        assert not (project / "out.csv").exists() and not corpus.marker.exists()
        attempts(1)
    assert command("predict", str(corpus.good), "rows.csv").returncode == 0


@pytest.mark.parametrize("corpus", [samples], indirect=True)
def test_registered_file_that_was_replaced(corpus:Corpus, here:Workspace, mine:None, attempts:Callable):
    "Known by its digest, even to who trusts it; and refused as any stranger's where the record was changed as well."
    run = iris.run()
    assert run.model is not None
    with connected(here) as connection: version = register(connection, here, "iris", run, run.model_path)
    path, counts = version.path, Counter()
    for hostile in (each for files in corpus.files.values() for each in files):
        path.unlink(missing_ok=True)
        if hostile.is_file(): shutil.copyfile(hostile, path)
        elif os.path.lexists(hostile): path.symlink_to(hostile)
        for trusted in (False, True):
            with pytest.raises(MlPkgError) as refused: find_model("iris@1", trusted)
            counts[type(refused.value).__name__] += 1
        if not path.is_file(): continue
        with connected(here) as connection, transaction(connection): connection.execute("UPDATE versions SET sha256 = ?", [digest_of(path)])
        with pytest.raises(MlPkgError) as refused: find_model("iris@1")
        counts[f"{type(refused.value).__name__} with its digest"] += 1
        with connected(here) as connection, transaction(connection): connection.execute("UPDATE versions SET sha256 = ?", [version.sha256])
    print(f"{sum(counts.values())} attempts, refused: {dict(counts)}")
    assert not corpus.marker.exists()
    attempts(sum(counts.values()))


@pytest.mark.parametrize("corpus", [pickles], indirect=True)
def test_archive_with_a_hostile_model(corpus:Corpus, tmp_path:Path, here:Workspace, monkeypatch:pytest.MonkeyPatch, attempts:Callable):
    "Somebody else's workspace comes in, and its models stay a stranger's."
    files = [path for path in corpus.files["pickles"] if path.stem.endswith("pickle")]
    theirs = Workspace(tmp_path / "theirs")
    monkeypatch.setenv("ML_PKG_WORKSPACE", str(theirs.folder))
    run = iris.run()
    assert run.model is not None
    for number, hostile in enumerate(files):
        shutil.copyfile(hostile, run.model_path)
        with connected(theirs) as connection, transaction(connection): connection.execute("UPDATE files SET sha256 = ? WHERE path = ?", [digest_of(run.model_path), str(run.model_path)])
        export(theirs, tmp_path / f"{number}.zip")
    monkeypatch.setenv("ML_PKG_KEY", "mine")
    for number in range(len(files)):
        workspace = Workspace(tmp_path / f"mine{number}")
        monkeypatch.setenv("ML_PKG_WORKSPACE", str(workspace.folder))
        assert import_(tmp_path / f"{number}.zip", workspace).files >= 1
        with pytest.raises(UntrustedFile, match="could run code"): find_model(f"run:{run.id}")
    print(f"{len(files)} attempts, refused: UntrustedFile")
    assert not corpus.marker.exists()
    attempts(len(files))
