"""A plugin's exception becomes one line that is fit for a stranger."""

import pytest

from sensorium.plugins.failure import PluginFailure, attempt, describe


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (ValueError(), "ValueError"),
        (
            TypeError("<object object at 0x7f1234567890> is odd"),
            "TypeError: <object object> is odd",
        ),
        (OSError("can't open '/some/where/deep/file.txt'"), "OSError: can't open 'file.txt'"),
        (ImportError("no name a in b (/x/y/b.py)"), "ImportError: no name a in b (b.py)"),
        (ValueError("see https://example.org/a/b and/or c / d"), None),
        (Unspeakable(), "Unspeakable"),
    ],
)
def test_an_exception_is_described(error: BaseException, line: str | None) -> None:
    assert describe(error) == (line or f"ValueError: {error}")


def test_a_long_text_is_cut() -> None:
    assert len(describe(ValueError("x" * 10_000))) < 500


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), BaseException("odd"), OSError()])
def test_everything_is_a_failure(error: BaseException) -> None:
    def raises() -> None:
        raise error

    with pytest.raises(PluginFailure, match=f"^importing x raised {type(error).__name__}"):
        attempt("importing x", raises)


def test_ctrl_c_goes_through() -> None:
    def raises() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt("importing x", raises)
