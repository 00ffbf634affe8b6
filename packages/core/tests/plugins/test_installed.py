"""One plugin: the interface's version, the hooks' spelling, and that it fails alone and whole."""

import types
from collections.abc import Callable
from typing import Any

import pluggy
import pytest

from sensorium.plugins import hookimpl
from sensorium.plugins.discovery import in_process


def _unmarked() -> Callable[[], list[Any]]:
    def hook() -> list[Any]:
        return []

    return hook


@pytest.mark.parametrize("api", [1, 3, "2", True, 2.0])
def test_another_api_is_refused_naming_both(make: Any, api: object) -> None:
    plugin = in_process("stranger", make.plugin(api=api))
    assert plugin.error == f"it states api = {api!r}; this sensorium-core serves api = 2"


def test_an_api_must_be_stated(make: Any) -> None:
    plugin = in_process("stranger", make.plugin(api=None))
    assert plugin.error == "it states no api; this sensorium-core serves api = 2"


@pytest.mark.parametrize("marked", [True, False])
def test_a_misspelt_hook_is_found_with_the_nearest(make: Any, marked: bool) -> None:
    module = make.plugin()
    module.sensorium_media_kind = hookimpl(_unmarked()) if marked else _unmarked()
    error = in_process("stranger", module).error
    assert error == "sensorium_media_kind is no hook; did you mean sensorium_media_kinds?"


def test_a_marked_function_of_any_other_name_is_found(make: Any) -> None:
    def media_kinds() -> list[Any]:
        return []

    module = make.plugin()
    module.media_kinds = hookimpl(media_kinds)
    error = in_process("stranger", module).error
    assert error is not None
    assert error.startswith("media_kinds is no hook; ")


def test_a_hook_without_its_decorator_is_found(make: Any) -> None:
    module = make.plugin()
    module.sensorium_assets = _unmarked()
    assert (
        in_process("stranger", module).error == "its sensorium_assets lacks the decorator @hookimpl"
    )


def test_an_imported_module_with_the_prefix_is_no_hook(make: Any) -> None:
    module = make.plugin()
    module.sensorium_something = types
    assert in_process("stranger", module).error is None


def test_a_hook_with_an_argument_is_refused(make: Any) -> None:
    def with_argument(config: object) -> list[Any]:
        return []

    module = make.plugin()
    module.sensorium_media_kinds = hookimpl(with_argument)
    error = in_process("stranger", module).error
    assert error is not None
    assert "{'config'}" in error


@pytest.mark.parametrize("option", ["tryfirst", "trylast", "optionalhook"])
def test_an_option_without_meaning_is_refused(make: Any, option: str) -> None:
    def kinds() -> list[Any]:
        return []

    module = make.plugin()
    module.sensorium_media_kinds = hookimpl(**{option: True})(kinds)
    error = in_process("stranger", module).error
    assert error is not None
    assert f"is marked {option}" in error


def test_another_projects_marker_does_not_count(make: Any) -> None:
    module = make.plugin()
    module.sensorium_media_kinds = pluggy.HookimplMarker("somebody")(_unmarked())
    error = in_process("stranger", module).error
    assert error == "its sensorium_media_kinds lacks the decorator @hookimpl"


def test_an_object_may_be_a_plugin(make: Any) -> None:
    class Plugin:
        api = 2

        @hookimpl
        def sensorium_media_kinds(self) -> list[Any]:
            return [make.kind()]

    plugin = in_process("stranger", Plugin())
    assert [kind.name for kind in plugin.brings("sensorium_media_kinds")] == ["scent"]


def test_hooks_are_called_once_and_only_on_need(make: Any) -> None:
    calls = []
    module = make.plugin(commands=[])

    def kinds() -> list[Any]:
        calls.append("kinds")
        return []

    module.sensorium_media_kinds = hookimpl(kinds)
    plugin = in_process("stranger", module)
    plugin.brings("sensorium_commands")
    assert calls == []
    plugin.brings("sensorium_media_kinds")
    plugin.load_all()
    assert calls == ["kinds"]


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(1), SyntaxError("odd")])
def test_a_plugin_fails_whole(make: Any, error: BaseException) -> None:
    bad = make.plugin(kinds=[make.kind()], adapters=[make.adapter()], assets=error)
    good = make.plugin(families=[make.family()])
    registry = make.registry({"bad": bad, "good": good})
    assert dict(registry.kinds) == {}
    assert list(registry.families) == ["ToyForCausalLM"]
    assert registry.adapters("ToyForCausalLM") == {}
    status = registry.statuses[0]
    assert status.brings == ()
    assert status.error is not None
    assert status.error.startswith(f"its hook sensorium_assets raised {type(error).__name__}")


def test_a_plugin_whose_attributes_raise_fails_alone() -> None:
    class Evil:
        def __getattr__(self, name: str) -> object:
            raise ZeroDivisionError("evil")

    plugin = in_process("evil", Evil())
    assert plugin.error == "reading Evil raised ZeroDivisionError: evil"
