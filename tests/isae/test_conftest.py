"""What the tests themselves share: files that come first, what is built once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Build = Callable[[Path], object]


def test_files_that_come_first_are_there(pytestconfig: pytest.Config, repository: Path) -> None:
    conftest = pytestconfig.pluginmanager.get_plugin(str(repository / "tests" / "conftest.py"))
    assert conftest is not None
    assert len(conftest.LONG) == len(set(conftest.LONG)) > 10
    gone = [name for name in conftest.LONG if not (repository / "tests" / name).is_file()]
    assert gone == [], "LONG in tests/conftest.py names files that are not there"


def test_what_is_built_once_is_built_by_the_first_that_asks(
    build_once: Callable[[str, Build], Path],
) -> None:
    tried: list[Path] = []

    def fail(folder: Path) -> None:
        tried.append(folder)
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        build_once("for-the-test-of-it", fail)

    def build(folder: Path) -> None:
        tried.append(folder)
        time.sleep(0.05)
        (folder / "file").write_text("built")

    found: list[str] = []

    def ask() -> None:
        found.append((build_once("for-the-test-of-it", build) / "file").read_text())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["built"] * 4
    assert len(set(tried)) == len(tried) == 2
