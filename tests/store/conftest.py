"""Small real stores: procedural pictures through the packaged network; an S3 server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from isae.store import BuildConfig, Store, build_store, open_store, plan, verify_store
from isae.store.import_arrays import import_arrays
from isae.store.import_config import ImportConfig
from isae.store.places import Place, open_place
from isae.store.repair import repair_store

SMALL = {
    "images": "synthetic:26",
    "layers": ("mixed3b", "mixed4a", "mixed4b"),
    "size": 56,
    "holdout": 0.2,
    "batch_size": 8,
    "workers": 0,
    "seed": 3,
}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete store; tests must not change it."""
    path = tmp_path_factory.mktemp("built") / "store"
    build_store(BuildConfig(out=str(path), **SMALL))
    return path


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    """A copy of the complete store, free to be damaged."""
    return shutil.copytree(built, tmp_path / "copy")


@pytest.fixture
def small_config(tmp_path: Path) -> Callable[..., BuildConfig]:
    """The small store's configuration with changes, into this test's folder."""

    def make(**changes: object) -> BuildConfig:
        return BuildConfig(**{"out": str(tmp_path / "store"), **SMALL, **changes})

    return make


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch of 8 images a segment."""
    monkeypatch.setattr(plan, "SEGMENT_BYTES", 1)


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let something happen before or after the n-th call of a step of the build, once."""

    def arrange(
        owner: Any, name: str, fault: Callable[[], object], *, call: int = 1, early: bool = False
    ) -> None:
        step, calls = getattr(owner, name), 0

        def wrapper(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if early and calls == call:
                fault()
            result = step(*args, **options)
            if not early and calls == call:
                fault()
            return result

        monkeypatch.setattr(owner, name, wrapper)

    return arrange


@pytest.fixture
def check_resumed() -> Callable[[BuildConfig, str], None]:
    """Go on with a build: it has the content that it has to have, and leaves nothing behind."""

    def check(config: BuildConfig, content_id: str) -> None:
        assert build_store(config, resume=True)["content_id"] == content_id
        assert verify_store(config.out) == []
        assert not (Path(config.out) / "work").exists()

    return check


@pytest.fixture(scope="session")
def take_in() -> Callable[..., Store]:
    """take_in(source, out, **options): import arrays of other tools; the new store, verified."""

    def take(source: Path, out: Path, **options: Any) -> Store:
        options = {"format": "npy", "layer": "cache", **options}
        import_arrays(ImportConfig(source=str(source), out=str(out), **options))
        assert verify_store(out) == []
        return open_store(out)

    return take


@pytest.fixture(scope="session")
def by_place() -> Callable[[Store, str], tuple[np.ndarray, np.ndarray]]:
    """by_place(store, layer): places in order, and the rows there."""

    def sort(store: Store, layer: str) -> tuple[np.ndarray, np.ndarray]:
        places = store.positions(layer)[:]
        order = np.lexsort(places.T[::-1])
        return places[order], store.activations(layer)[:][order]

    return sort


@pytest.fixture(scope="session")
def damage() -> Callable[[Place, str, str], None]:
    """damage(place, key, how): flip a bit of a file, cut its last byte off, empty or remove it."""

    def harm(place: Place, key: str, how: str) -> None:
        if how == "remove":
            place.delete(key)
            return
        data = bytearray(place.read(key))
        if how == "flip":
            data[len(data) // 3] ^= 16
        else:
            del data[{"cut": -1, "empty": 0}[how] :]
        place.write(key, bytes(data))

    return harm


@pytest.fixture(scope="session")
def contents() -> Callable[[Place], dict[str, bytes]]:
    """contents(place): the bytes of every file there."""

    def read(place: Place) -> dict[str, bytes]:
        listed = place.keys()
        return {key: place.read(key) for key, _ in listed}

    return read


@pytest.fixture(scope="session")
def check_repaired(
    contents: Callable[[Place], dict[str, bytes]],
) -> Callable[[str | Path, dict[str, bytes], set[str]], None]:
    """The damage is found by verify, and repaired: every byte of the store is as before."""

    def check(where: str | Path, whole: dict[str, bytes], damaged: set[str]) -> None:
        assert verify_store(where) != []
        done = repair_store(where)
        assert set(done.broken) == damaged
        assert sorted(done.repaired) == sorted(damaged)
        assert contents(open_place(where)) == whole
        assert verify_store(where) == []

    return check


# moto's server as a process of its own, on a free port; it ends when its input is closed, so also
# when the tests are killed. S3 judges the condition of a put and stores in one step, moto in two:
# the lock makes them one.
S3_SERVER = """
import os, sys, threading
from werkzeug.serving import make_server
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app

app, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

def serve(environ, start_response):
    if "HTTP_IF_NONE_MATCH" in environ or "HTTP_IF_MATCH" in environ:
        with one_at_a_time:
            return list(app(environ, start_response))
    return app(environ, start_response)

server = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=MotoRequestHandler)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print(server.server_port, flush=True)
server.serve_forever()
"""
BUCKET = "test-bucket"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server on this machine that has the bucket test-bucket."""
    with subprocess.Popen(
        [sys.executable, "-c", S3_SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
            make = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
            with urllib.request.urlopen(make) as answer:
                assert answer.status == 200
            yield endpoint
        finally:
            server.stdin.close()


@pytest.fixture(scope="session")
def light_store() -> str:
    """Python code that lets a process import parts of isae.store without what they do not need.

    The package itself imports torch, which takes seconds.
    """
    return (
        "import sys, types, isae\n"
        "package = sys.modules['isae.store'] = types.ModuleType('isae.store')\n"
        "package.__path__ = [isae.__path__[0] + '/store']\n"
    )


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of a bucket for this test alone, with the environment set for it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "AKIATESTKEY",
        "AWS_SECRET_ACCESS_KEY": "test/secret/key",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid4().hex}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
