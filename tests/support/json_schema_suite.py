"""The JSON Schema test suite, as the source distribution of the package jsonschema holds it."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from typing import Any


def cases(folder: Path) -> list[dict[str, Any]]:
    """The suite's cases for draft 2020-12 with their "schema" and "tests", required ones only.

    Args:
        folder: where the distribution is kept once it was fetched.

    Raises:
        OSError: it can't be fetched.
    """
    name = f"jsonschema-{version('jsonschema')}"
    file = folder / f"{name}.tar.gz"
    if not file.exists():
        command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check"]
        command += ["--no-deps", "--no-binary", "jsonschema", "--dest", str(folder)]
        done = subprocess.run([*command, name.replace("-", "==")], check=False, timeout=300)
        if done.returncode != 0:
            raise OSError("pip did not get the source distribution of jsonschema.")
    found: list[dict[str, Any]] = []
    with tarfile.open(file) as archive:
        for member in archive.getmembers():
            path = member.name.removeprefix(f"{name}/json/tests/draft2020-12/")
            if path != member.name and path.endswith(".json") and "/" not in path:
                text = archive.extractfile(member)
                assert text is not None
                found += json.load(text)
    assert len(found) > 200
    return found
