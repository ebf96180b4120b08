"""Checkpoints shared through S3, spoken to a real server on this machine."""

import secrets
import time

import numpy as np
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from ml_pkg import Checkpoints
from ml_pkg.checkpoints import made
from ml_pkg.remote import Remote

KEY = "ab" * 16


@pytest.fixture
def bucket(monkeypatch):
    "The URL of an empty bucket."
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}.items(): monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"team-{secrets.token_hex(4)}" # buckets of one process outlive a server
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}/checkpoints"
    server.stop()


def slow():
    time.sleep(0.05)
    return np.arange(300_000)


def test_what_one_machine_made_another_fetches(bucket, tmp_path):
    first, second = (Checkpoints(tmp_path / name, behind=Remote(bucket), share=1.0) for name in ("first", "second"))
    assert not made(first, KEY, "numbers", slow).reused
    found = made(second, KEY, "numbers", slow)
    assert found.reused and (found.value == np.arange(300_000)).all()


def test_what_another_key_signed_is_computed_and_left_alone(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("ML_PKG_KEY", "another team")
    made(Checkpoints(tmp_path / "theirs", behind=Remote(bucket), share=1.0), KEY, "numbers", slow)
    monkeypatch.delenv("ML_PKG_KEY")
    ours = Checkpoints(tmp_path / "ours", behind=Remote(bucket), share=1.0)
    with pytest.warns(UserWarning, match="another key"): assert not made(ours, KEY, "numbers", slow).reused
    assert made(ours, KEY, "numbers", slow).reused and not (ours.path / "damaged").exists()
