"""docs/compatibility.md has a row for all that vLLM's page has, and what its rows name is there."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

#: Rows that nothing shows yet. It only falls; 0 is the end.
NOT_YET = 0
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.*?) \|(.*)\|$")
NAMED = re.compile(r"`([\w/.-]+\.py)(?:::(\w+))?`")


def entries(manifest: str) -> list[tuple[str, str]]:
    """Return (heading, entry) of a manifest, in its order."""
    headings = tomllib.loads(manifest)["heading"]
    return [(one["title"], entry) for one in headings for entry in one["entries"]]


def rows(page: str) -> list[tuple[str, str, str]]:
    """Return (heading, entry, what shows it) of a page, in its order; numbers must count up."""
    heading, found = "", []
    for line in page.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif match := ROW.match(line):
            assert int(match[1]) == len(found) + 1, f"row {match[1]} is row {len(found) + 1}"
            found.append((heading, match[2], match[3]))
    return found


def names_of_tests(file: Path) -> set[str]:
    """Return the tests that pytest collects from a file: functions of its own, not skipped."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
        and not any("mark.skip" in ast.unparse(mark) for mark in node.decorator_list)
    }


def faults(root: Path, shown_by: str) -> list[str]:
    """Return what is wrong with what a row names: an example that runs, or a test."""
    if shown_by == "not yet":
        return []
    found = [] if NAMED.search(shown_by) else [f"{shown_by!r} names nothing"]
    for name, test in NAMED.findall(shown_by):
        file = root / name
        if not file.is_file():
            found.append(f"{name} is missing")
        elif test:
            if not file.name.startswith("test_") or name.split("/")[0] not in ("tests", "packages"):
                found.append(f"{name} is not collected")
            elif test not in names_of_tests(file):
                found.append(f"{name} has no {test}")
        elif file.parent != root / "examples":
            found.append(f"{name} is no example, and names no test")
    return found


def test_every_entry_of_the_page_has_its_row(root: Path) -> None:
    page = (root / "docs" / "compatibility.md").read_text(encoding="utf-8")
    manifest = Path(__file__).with_name("multimodal_inputs.toml").read_text(encoding="utf-8")
    assert [(heading, entry) for heading, entry, _ in rows(page)] == entries(manifest)


def test_what_rows_name_is_there(root: Path) -> None:
    page = (root / "docs" / "compatibility.md").read_text(encoding="utf-8")
    wrong = [fault for _, _, shown_by in rows(page) for fault in faults(root, shown_by)]
    assert not wrong, "\n".join(wrong)


def test_rows_that_nothing_shows_are_counted(root: Path) -> None:
    page = (root / "docs" / "compatibility.md").read_text(encoding="utf-8")
    open_rows = [entry for _, entry, shown_by in rows(page) if shown_by == "not yet"]
    assert len(open_rows) == NOT_YET, open_rows


def test_every_example_but_our_own_is_in_a_row(root: Path) -> None:
    page = (root / "docs" / "compatibility.md").read_text(encoding="utf-8")
    own = {"async_stream.py", "server_stream.py"}
    named = {name for name, _ in NAMED.findall(page)}
    files = {file.name for file in (root / "examples").glob("*.py")} - own
    assert {f"examples/{name}" for name in files} <= named


@pytest.mark.parametrize(
    ("shown_by", "fault"),
    [
        ("", "names nothing"),
        ("soon", "names nothing"),
        ("`examples/none.py`", "is missing"),
        ("`tests/repository/conftest.py::root`", "is not collected"),
        ("`tests/repository/test_documents.py::test_no_such`", "has no test_no_such"),
        ("`tests/repository/test_documents.py::anchors`", "has no anchors"),
        ("`tests/repository/test_documents.py`", "is no example"),
    ],
)
def test_planted_faults_are_found(root: Path, shown_by: str, fault: str) -> None:
    (found,) = faults(root, shown_by)
    assert fault in found


def test_a_planted_omission_is_found() -> None:
    manifest = '[[heading]]\ntitle = "A"\nentries = ["says: a", "code: b"]\n'
    whole = "## A\n\n| 1 | says: a | `examples/x.py` | |\n| 2 | code: b | not yet | no |\n"
    assert [row[:2] for row in rows(whole)] == entries(manifest)
    assert [row[:2] for row in rows(whole.splitlines()[2])] != entries(manifest)
    with pytest.raises(AssertionError, match="row 3 is row 2"):
        rows(whole.replace("| 2 |", "| 3 |"))
