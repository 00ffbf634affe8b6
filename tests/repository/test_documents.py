"""What the documents promise about files and commands holds."""

import re
import subprocess
from pathlib import Path

import pytest

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# Where packages come from is the reader's own setting; so are the folders of a writer's machine.
UNWANTED = {
    "a package index": re.compile(r"--(extra-)?index-url|\bpip\.conf\b"),
    "a folder of one machine": re.compile(r"(?<![\w.])/(root|home|Users)/\w"),
}


def tracked_files(root: Path) -> list[Path]:
    """Return the files that belong to the project: tracked ones, and new ones not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    files = [root / name for name in done.stdout.split("\0") if name]
    return [file for file in files if file.is_file()]


def anchors(text: str) -> set[str]:
    """Return the anchors that a page's headings get."""
    headings = re.findall(r"^#{1,6} +(.+)$", FENCE.sub("", text), re.MULTILINE)
    slugs = (re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings)
    return {slug.replace(" ", "-") for slug in slugs}


def broken_links(page: Path) -> list[str]:
    """Return the links of a page that lead to no file or heading of the project."""
    broken = []
    for match in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not (target.exists() and (not anchor or anchor in anchors(target.read_text("utf-8")))):
            broken.append(link)
    return broken


def test_internal_links_resolve(root: Path) -> None:
    pages = [file for file in tracked_files(root) if file.suffix == ".md"]
    assert root / "README.md" in pages
    broken = [f"{page.relative_to(root)}: {link}" for page in pages for link in broken_links(page)]
    assert not broken, "\n".join(broken)


def test_a_planted_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading\n[a](page.md#a-heading) [b](page.md#other) [c](none.md) [d](#x)\n")
    assert broken_links(page) == ["page.md#other", "none.md", "#x"]


def test_nothing_of_one_machine_is_written_down(root: Path) -> None:
    found = []
    unwanted = dict(UNWANTED)
    if len(root.parts) > 2:
        unwanted["this checkout's folder"] = re.compile(re.escape(str(root)) + r"\b")
    for file in tracked_files(root):
        if file == Path(__file__).resolve():
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for what, pattern in unwanted.items():
            if match := pattern.search(text):
                found.append(f"{file.relative_to(root)}: {what}: {match[0]!r}")
    assert not found, "\n".join(found)


def readme_commands(root: Path) -> list[str]:
    block = FENCE.search((root / "README.md").read_text(encoding="utf-8"))
    assert block, "README.md has no fenced block"
    return block[0].splitlines()[1:-1]


def test_readme_begins_with_two_commands_and_ci_runs_the_second(root: Path) -> None:
    first, second = readme_commands(root)
    assert first == "python3 dev.py demo"
    assert second == "python3 dev.py tests"
    steps = (root / ".ci" / "run").read_text().splitlines()
    assert f"step {second}" in steps
