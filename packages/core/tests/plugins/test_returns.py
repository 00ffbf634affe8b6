"""A hook that returns the wrong thing makes its plugin fail, and says which thing."""

import types
from pathlib import Path
from typing import Any

import pytest

from sensorium.plugins import Command, EncoderSpec, MediaKind, ModelFamily, WeightMap


def _error(make: Any, **brings: Any) -> str:
    (status,) = make.registry({"stranger": make.plugin(**brings)}).statuses
    assert status.error is not None
    assert status.brings == ()
    return str(status.error)


def _command(**changes: Any) -> Command:
    given = {"name": "sniff", "help": "", "add_arguments": print, "run": lambda _: 0, **changes}
    return Command(**given)


@pytest.mark.parametrize(
    ("what", "value", "message"),
    [
        ("kinds", None, "returned None; it must be a list"),
        ("kinds", "scent", "returned 'scent'; it must be a list"),
        ("kinds", [3], "returned 3 in its list; it must be a class derived from MediaKind"),
        ("kinds", [object()], "returned a object in its list"),
        ("kinds", [ModelFamily], "returned the class ModelFamily in its list"),
        ("kinds", [MediaKind], "doesn't implement digest, load, parse_part, probe, split"),
        ("families", {}, "returned a dict; it must be a list"),
        ("families", [ModelFamily], "the class ModelFamily in its list; it must be an instance"),
        ("adapters", [3], "must be a class derived from MediaAdapter"),
        ("commands", [3], "returned 3 in its list; it must be a Command"),
        ("commands", [_command(name="two words")], "has 'two words' as name"),
        ("commands", [_command(name="plugins")], "the command 'plugins' is core's own"),
        ("commands", [_command(help=None)], "has a help that is no text"),
        ("commands", [_command(run=None)], "has run that can't be called"),
        ("commands", [_command(), _command()], "two commands with one name"),
        ("assets", [], "returned a list; it must be a mapping"),
        ("assets", {3: types}, "its mapping has 3 as a key"),
        ("models", [], "returned a list; it must be a mapping"),
        ("models", {"or/anges": Path()}, "its mapping has 'or/anges' as a key"),
        ("models", {"oranges": "."}, "returned '.' for 'oranges'; it must be a folder's Path"),
        ("models", {"oranges": Path("no such")}, "for 'oranges'; it must be a folder's Path"),
        ("assets", {"scent": "types"}, "returned 'types' for 'scent'; it must be a module"),
    ],
)
def test_a_wrong_return_is_told(make: Any, what: str, value: Any, message: str) -> None:
    error = _error(make, **{what: value})
    assert message in error
    assert error.startswith("its hook sensorium_")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"name": None}, "has None as name"),
        ({"name": "two words"}, "has 'two words' as name"),
        ({"part_types": "scent"}, "has part_types = 'scent'; it must be a tuple"),
        ({"part_types": ("text",)}, "has the part type 'text', core's own"),
        ({"part_types": ("a", "a")}, "names something twice in part_types"),
        ({"offline_part_types": ("a",)}, "has 'a' in offline_part_types only"),
        ({"size_names": ["height"]}, "has size_names = a list; it must be a tuple of names"),
        ({"fetch_timeout_s": 0}, "has fetch_timeout_s = 0"),
        ({"max_decoded_bytes": "1"}, "has max_decoded_bytes = '1'"),
        ({"default_limit": -1}, "has default_limit = -1"),
    ],
)
def test_a_kind_is_checked(make: Any, attributes: dict[str, Any], message: str) -> None:
    assert message in _error(make, kinds=[make.kind(**attributes)])


def test_a_missing_class_attribute_is_named(make: Any) -> None:
    nameless = type("Nameless", (make.Kind,), {})
    assert "the kind Nameless states no name" in _error(make, kinds=[nameless])
    homeless = type("Homeless", (make.Family,), {})()
    assert "the family Homeless states no architectures" in _error(make, families=[homeless])
    kindless = type("Kindless", (make.Adapter,), {})
    assert "the adapter Kindless states no kind" in _error(make, adapters=[kindless])
    for missing in ("architectures", "encoders"):
        adapter = make.adapter()
        delattr(adapter, missing)
        assert f"states no {missing}" in _error(make, adapters=[adapter])


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"architectures": ()}, "has no architectures"),
        ({"architectures": "ToyForCausalLM"}, "has architectures = 'ToyForCausalLM'"),
        ({"architectures": ("a/b",)}, "has 'a/b' as an entry of architectures"),
        ({"task": "sing"}, "has task 'sing'"),
        ({"position_axes": 0}, "has position_axes = 0"),
        ({"encoders": ["nose"]}, "has encoders that is no tuple of EncoderSpec"),
        ({"chat_template": 3}, "has a chat_template that is no text"),
    ],
)
def test_a_family_is_checked(make: Any, attributes: dict[str, Any], message: str) -> None:
    assert message in _error(make, families=[make.family(**attributes)])


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"kind": 3}, "has 3 as kind"),
        ({"architectures": ()}, "has no architectures"),
        ({"version": "1"}, "has version = '1'"),
        ({"encoders": ()}, "has no encoders"),
        ({"encoders": ("mouth",)}, "brings the encoder 'nose' and doesn't name it in encoders"),
        ({"own_encoders": ("nose",)}, "has own_encoders that is no tuple of EncoderSpec"),
        ({"atomic_prefill": 1}, "has atomic_prefill = 1"),
        ({"option_names": ("a",)}, "has option_names that is no frozenset"),
    ],
)
def test_an_adapter_is_checked(make: Any, attributes: dict[str, Any], message: str) -> None:
    assert message in _error(make, adapters=[make.adapter(**attributes)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "has 'a b' as name"),
        ({"weights": {}}, "has weights that is no WeightMap"),
        ({"build": None}, "has build that can't be called"),
        ({"source": "file"}, "has source that can't be called"),
    ],
)
def test_an_encoder_is_checked(make: Any, changes: dict[str, Any], message: str) -> None:
    given = {"name": "nose", "build": print, "weights": WeightMap(()), **changes}
    family = make.family(encoders=(EncoderSpec(**given),))
    assert message in _error(make, families=[family])


def test_right_returns_are_taken(make: Any) -> None:
    plugin = make.plugin(
        kinds=[make.kind(part_types=("scent_url",), default_limit=None)],
        families=(make.family(),),
        adapters=[make.adapter()],
        commands=[_command()],
        assets={"scent": types},
        models={"oranges": Path()},
    )
    (status,) = make.registry({"stranger": plugin}).statuses
    assert status.error is None
    assert set(status.brings) == {
        "kind:scent",
        "part:scent_url",
        "family:ToyForCausalLM",
        "adapter:ToyForCausalLM/scent",
        "encoder:ToyForCausalLM/nose",
        "command:sniff",
        "assets:scent",
        "model:oranges",
    }
