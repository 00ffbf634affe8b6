"""The catalogue of known plugins, as data.

It says which distribution serves which kind of media and which model architecture, so that an error
message of the engine can name the `pip install` line that mends it. The engine itself knows no
modality; it reads this file only where this package is installed.
"""

from pathlib import Path

__all__ = ["path"]


def path() -> Path:
    """Return where `catalogue.toml` lies.

    It holds two tables, `kinds` and `architectures`. Each maps a name to a table with the strings
    `distribution` and `install` (a command line).
    """
    return Path(__file__).with_name("catalogue.toml")
