"""A browser for the pages of reports, and reports for it.

With ISAE_BROWSER=required, which continuous integration sets, a missing browser is a failure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from isae.analysis.report.analyze import write_report

NAMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "microsoft-edge",
)  # fmt: skip


def find_chromium(playwright: Playwright) -> str | None:
    """A Chromium of the system, else the one that Playwright brought along, else None."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a file."""
    with sync_playwright() as playwright:
        path = find_chromium(playwright)
        if path is None:
            say = f"needs a browser: none of {', '.join(NAMES)} is installed"
            if os.environ.get("ISAE_BROWSER") == "required":
                pytest.fail(f"{say}, and ISAE_BROWSER=required")
            pytest.skip(say)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Trouble:
    """What a page complained of, and what it asked for beyond the report's folder."""

    def __init__(self, page: Page) -> None:
        self.said: list[str] = []
        self.outside: list[str] = []
        page.on("console", lambda message: self._console(message.type, message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self._request(request.url))

    def _console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.said.append(text)

    def _request(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:", "about:")):
            self.outside.append(url)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """visit(address): a page of its own, shown; at the end none may have complained.

    complains: texts of complaints that the test provokes; the others are options of the context.
    """
    opened: list[tuple[Trouble, tuple[str, ...], Page]] = []

    def visit(address: str, complains: tuple[str, ...] = (), **options: Any) -> Page:
        page = browser.new_page(**{"viewport": {"width": 1200, "height": 800}} | options)
        page.set_default_timeout(20_000)
        opened.append((Trouble(page), complains, page))
        page.goto(address)
        shown(page)
        return page

    yield visit
    for trouble, complains, page in opened:
        page.close()
        left = [text for text in trouble.said if not any(one in text for one in complains)]
        assert left == []
        assert trouble.outside == []


def shown(page: Page) -> None:
    """Wait until the page shows what its address says."""
    page.wait_for_function(
        "() => (document.querySelector('main').dataset.shown ?? null) === location.hash"
        " || document.querySelector('main > .trouble')"
    )


@pytest.fixture(scope="session")
def made_up() -> ModuleType:
    """The module that makes reports up."""
    return load_beside("made_up")


@pytest.fixture(scope="session")
def make_up_analyses() -> Any:
    """make_up_analyses(run, stability, features, text) writes analyses that take long."""
    return load_beside("made_up_tables").make_up_analyses


def load_beside(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"isae_{name}_for_tests", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def read_script() -> Callable[[str], tuple[str, Any]]:
    """read_script(text) -> (name, value) of a script of data, by Python's own JSON."""

    def read(text: str) -> tuple[str, Any]:
        assert text.startswith("isae.take(")
        assert text.endswith(");\n")
        name, value = json.loads(f"[{text[len('isae.take(') : -3]}]")
        return name, value

    return read


@pytest.fixture(scope="session")
def report(made_up: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small report of three layers."""
    return made_up.build(tmp_path_factory.mktemp("reports") / "a report", made_up.SMALL)


@pytest.fixture(scope="session")
def reported() -> ModuleType:
    """The module of the small study that reports' data are tested with."""
    return load_beside("reported")


@pytest.fixture(scope="session")
def study(
    reported: ModuleType,
    build_once: Callable[[str, Callable[[Path], object]], Path],
    random_run: Callable[..., Path],
    make_up_analyses: Callable[..., None],
) -> Path:
    """The study: its first layer has every analysis, most of them made up. Not to be changed."""

    def build(folder: Path) -> None:
        trained = folder / "study" / "trained"
        reported.build_study(folder / "study", random_run)
        run, stability = (trained / part / reported.FIRST for part in ("seed0", "stability"))
        make_up_analyses(run, stability, reported.N, reported.EVIL)

    return build_once("reported", build) / "study"


@pytest.fixture(scope="session")
def written(
    study: Path,
    reported: ModuleType,
    build_once: Callable[[str, Callable[[Path], object]], Path],
) -> tuple[Path, dict[str, Any]]:
    """(a report of it, its summary)."""

    def build(folder: Path) -> None:
        write_report([study], folder / "out", config=reported.CONFIG)

    out = build_once("report", build) / "out"
    return out, json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="session")
def data(
    written: tuple[Path, Any], read_script: Callable[[str], tuple[str, Any]]
) -> Callable[[str], Any]:
    """data(name): what the script of that name hands over."""

    def value(name: str) -> Any:
        said, found = read_script((written[0] / "data" / f"{name}.js").read_text())
        assert said == name
        return found

    return value


@pytest.fixture(scope="session")
def columns_of(data: Callable[[str], Any], reported: ModuleType) -> Callable[[str], Any]:
    """columns_of(layer): the values of each of its columns by name."""

    def columns(layer: str) -> dict[str, list[Any]]:
        found = data(f"columns/{layer}")
        values = {one["name"]: reported.column_values(one) for one in found["columns"]}
        assert len(values) == len(found["columns"])
        assert {len(one) for one in values.values()} == {found["features"]} == {reported.N}
        return values

    return columns


@contextmanager
def downloaded(page: Page) -> Iterator[list[str]]:
    """The text of the file that is downloaded inside the block, once it is left."""
    text: list[str] = []
    with page.expect_download() as download:
        yield text
    text.append(Path(download.value.path()).read_bytes().decode())


@pytest.fixture
def rows_of() -> Callable[[Page], list[dict[str, str]]]:
    """rows_of(page): every row of its table, in order, from the file that it gives."""
    import csv
    import io

    def rows(page: Page) -> list[dict[str, str]]:
        with downloaded(page) as text:
            page.get_by_role("button", name="Download CSV").click()
        return list(csv.DictReader(io.StringIO(text[0], newline="")))

    return rows


@pytest.fixture(scope="session")
def wait_shown() -> Callable[[Page], None]:
    """wait_shown(page): until it shows what its address says."""
    return shown


@pytest.fixture(scope="session")
def go() -> Callable[[Page, str], None]:
    """go(page, "#/map"): to another address of the report, as a link does."""

    def go(page: Page, address: str) -> None:
        page.evaluate("address => { location.hash = address; }", address)
        shown(page)

    return go
