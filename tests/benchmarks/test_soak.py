"""The report of the long tests: their counts, and whole only if all of them passed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isae.benchmarks.soak import SoakReport

TESTS = """
import pytest

@pytest.mark.soak
@pytest.mark.parametrize("kills", [2, 3])
def test_long(soak_report, kills):
    soak_report.count(kills=kills)
    soak_report.note(**{f"peak_mib_{kills}": 1.5})
    assert kills < LIMIT

def test_quick(soak_report):
    soak_report.count(kills=100)
"""


def soaked(
    request: pytest.FixtureRequest, folder: Path, *options: str, limit: int = 9
) -> dict[str, Any]:
    """The report of a run of TESTS with the plugin that this very run has."""
    # Two modules of one name cannot be imported into one process.
    name = f"test_{folder.name}.py"
    (folder / "pytest.ini").write_text(f"[pytest]\nmarkers = soak: long\ntestpaths = {name}\n")
    (folder / name).write_text(TESTS.replace("LIMIT", str(limit)))
    plugin = type(request.config.pluginmanager.getplugin("soak-report"))
    out = folder / "soak.json"
    ini = ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder), "--import-mode=importlib"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pytest.main([*ini, "-qq", "-p", "no:cacheprovider", *options], plugins=[plugin(str(out))])
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_what_the_long_tests_counted_is_kept(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found = soaked(request, tmp_path, "-m", "soak")
    assert found["whole"]
    assert found["counts"] == {"kills": 5}
    assert found["measured"] == {"peak_mib_2": 1.5, "peak_mib_3": 1.5}
    assert [one["outcome"] for one in found["tests"].values()] == ["passed", "passed"]
    assert found["machine"]["cores"] >= 1
    assert {"commit", "versions"} <= set(found)


@pytest.mark.parametrize(
    ("options", "limit", "outcomes"),
    [
        (["-m", "soak"], 3, ["passed", "failed"]),
        (["-m", "soak", "-k", "2"], 9, ["passed"]),
        (["-m", "soak", "."], 9, ["passed", "passed"]),  # perhaps not every folder
        (["-m", "not soak"], 9, []),
    ],
)
def test_a_report_is_whole_only_if_all_ran_and_passed(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    options: list[str],
    limit: int,
    outcomes: list[str],
) -> None:
    found = soaked(request, tmp_path, *options, limit=limit)
    assert not found["whole"]
    assert [one["outcome"] for one in found["tests"].values()] == outcomes


def test_the_worst_of_a_tests_parts_is_its_outcome() -> None:
    report = SoakReport()
    for outcome in ("passed", "skipped", "passed"):
        report.outcome("one", outcome, 0.04)
    assert report.json(all_asked=True)["tests"] == {"one": {"outcome": "skipped", "seconds": 0.1}}
    assert not report.json(all_asked=True)["whole"]
