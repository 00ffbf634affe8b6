"""What fails while an engine starts costs the plugin its kind, and the model nothing else."""

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from scents import DISTRIBUTION, MODULE, ROSE, SOURCE
from tiny_checkpoints import make_llava, make_qwen2, make_qwen25vl

from sensorium import LLM, SamplingParams
from sensorium.errors import ConfigError, LimitError, PluginError
from sensorium.plugins.discovery import DISABLED_VARIABLE

GREEDY = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
OPTIONS: dict[str, Any] = {"dtype": "float32", "max_model_len": 64}
SMELLS: Any = {"prompt": "<scent>", "multi_modal_data": {"scent": ROSE}}

#: A plugin like the page's, with one thing changed.
PLUGIN = """
    from dataclasses import replace
    from scent_for_sensorium import scent
    from sensorium.errors import ConfigError, MediaError
    from sensorium.plugins import hookimpl

    api = 2

    class Scent(scent.Scent):
        KIND

    class Adapter(scent.ScentAdapter):
        own_encoders = (replace(scent.NOSE, SPEC),)
        ADAPTER

    def raising(*_):
        raise SystemExit("of the plugin")

    @hookimpl
    def sensorium_media_kinds():
        return [Scent]

    @hookimpl
    def sensorium_media_adapters():
        return [Adapter]
"""
Using = Callable[..., Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen2(tmp_path_factory.mktemp("model"), seed=5)


@pytest.fixture
def using(installed: Any, tmp_path: Path) -> Using:
    """An engine with the plugin above, changed."""

    @contextmanager
    def start(
        folder: Path, *, kind: str = "", adapter: str = "", spec: str = "", **options: Any
    ) -> Iterator[LLM]:
        source = textwrap.dedent(PLUGIN).replace("KIND", kind or "pass")
        source = source.replace("ADAPTER", adapter or "pass").replace("SPEC", spec or "name='nose'")
        (tmp_path / "odd_scents.py").write_text(source)
        # A context of its own: undone behind an outer one, it would bring that one's path back.
        with (
            installed("odd-scents", tmp_path, "odd_scents"),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.syspath_prepend(SOURCE)
            with LLM(folder, **OPTIONS, **options) as llm:
                yield llm

    return start


def answers(llm: LLM) -> None:
    """Text prompts, with the kind's placeholder in them or not, are answered."""
    for output in llm.generate(["Words only", "A <b>"], GREEDY, use_tqdm=False):
        assert len(output.outputs[0].token_ids) == 3


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"kind": "def __init__(self, options): 1 / 0"}, "Scent.__init__ of odd-scents raised Z"),
        ({"kind": "def __init__(self, options): exit(3)"}, "Scent.__init__ of odd-scents raised S"),
        ({"kind": "def options_key(self): return 3"}, "Scent.options_key of odd-scents returned 3"),
        ({"adapter": "def __init__(self, c): c.no_such"}, "Adapter.__init__ of odd-scents ra"),
        ({"adapter": "placeholder = 3"}, "Adapter.placeholder of odd-scents raised TypeError"),
        (
            {
                "adapter": "def placeholder(self, index):\n"
                "        return scent.Placeholder('<scent>', (), 'a smell')"
            },
            "in_context, 'a smell', doesn't hold its text, '<scent>', exactly once",
        ),
        (
            {
                "adapter": "def placeholder(self, index):\n"
                "        text = f'<scent {index + 0 // (50 - index)}>'\n"
                "        return scent.Placeholder(text, (), text)"
            },
            "Adapter.placeholder of odd-scents raised ZeroDivisionError",
        ),
        ({"adapter": "def template_part(self): return 3"}, "template_part of odd-scents ret"),
        (
            {"adapter": "@classmethod\n    def serves(cls, context): return context.nothing"},
            "Adapter.serves of odd-scents raised AttributeError",
        ),
        (
            {"adapter": "@classmethod\n    def serves(cls, context): return False"},
            "Adapter of odd-scents, which lets Qwen2ForCausalLM take the kind scent, doesn't serve",
        ),
        ({"spec": "source=lambda c: {}['width']"}, "source of odd-scents raised KeyError"),
        ({"spec": "source=lambda c: None"}, "nose's source of odd-scents returned None"),
        ({"spec": "source=lambda c: '/nowhere'"}, "There is no folder /nowhere"),
        ({"spec": "build=lambda c: raising()"}, "nose's build of odd-scents raised SystemExit"),
        ({"spec": "build=lambda c: None"}, "build of odd-scents returned None where a Module"),
        ({"spec": "weights=lambda c: 3"}, "nose's weights of odd-scents returned 3"),
        ({"spec": "source=None"}, "holds no weights of the encoder nose"),
    ],
)  # fmt: skip
def test_a_plugin_that_cannot_start_costs_its_kind(
    using: Using, model: Path, change: dict[str, str], cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    with using(model, **change) as llm:
        assert cause in caplog.text
        answers(llm)
        told = llm.generate(SMELLS, GREEDY, use_tqdm=False, on_error="return")[0].error
        assert isinstance(told, PluginError)
        assert cause in str(told)
        part: Any = {"type": "scent", "scent": ROSE}
        conversation: Any = [{"role": "user", "content": [part]}]
        told = llm.chat(conversation, GREEDY, use_tqdm=False, on_error="return")[0].error
        assert isinstance(told, PluginError)
        assert cause in str(told)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "def __init__(self, options): raise MediaError('no')"},
        {"adapter": "def __init__(self, context): raise ConfigError('not built')"},
        {"spec": "source=lambda c: raising()"},
    ],
)
def test_with_limit_0_nothing_of_the_kind_is_in_the_way(
    using: Using, model: Path, change: dict[str, str]
) -> None:
    with using(model, **change, limit_mm_per_prompt={"scent": 0}) as llm:
        answers(llm)


def test_a_model_of_another_width_is_served_without_the_kind(
    installed: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The page's plugin brings weights for a width of 64 alone."""
    wide = make_qwen25vl(tmp_path, seed=5, wide=True)
    with installed(DISTRIBUTION, SOURCE, MODULE), LLM(wide, **OPTIONS) as llm:
        assert "items of the kind scent aren't served" in caplog.text
        answers(llm)
        with pytest.raises(PluginError, match="nose"):
            llm.generate(SMELLS, GREEDY, use_tqdm=False)


def test_encoders_of_a_kind_with_limit_0_are_not_built(using: Using, model: Path) -> None:
    with using(
        model, spec="build=lambda c: open('/built')", limit_mm_per_prompt={"scent": 0}
    ) as llm:
        answers(llm)
        assert not llm._engine._parts.info.lost_kinds
        with pytest.raises(LimitError, match="has 1 scent items; limit_mm_per_prompt allows 0"):
            llm.generate(SMELLS, GREEDY, use_tqdm=False)


def test_a_damaged_checkpoint_never_starts_as_a_text_model(tmp_path: Path) -> None:
    folder = make_llava(tmp_path, seed=3)
    file = folder / "model.safetensors"
    weights = load_file(file)
    towers = [name for name in weights if "vision_tower" in name]
    save_file({name: w for name, w in weights.items() if name != towers[0]}, file)
    with pytest.raises(ConfigError, match="lacks weights of the encoder tower"):
        LLM(folder, **OPTIONS)
    save_file({name: w for name, w in weights.items() if name not in towers}, file)
    with pytest.raises(ConfigError, match="lacks weights of the encoder tower"):
        LLM(folder, **OPTIONS)
    with LLM(folder, **OPTIONS, limit_mm_per_prompt={"image": 0}) as llm:
        answers(llm)


def test_a_plugin_can_be_switched_off(
    installed: Any, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from sensorium.cli.app import main

    with installed(DISTRIBUTION, SOURCE, MODULE):
        with LLM(model, **OPTIONS, disabled_plugins=["Scent_for.Sensorium"]) as llm:
            answers(llm)
            with pytest.raises(PluginError, match=f"disabled_plugins\\): {DISTRIBUTION}:main"):
                llm.generate(SMELLS, GREEDY, use_tqdm=False)
        with pytest.raises(ConfigError, match="disabled_plugins names 'nobody', which isn't inst"):
            LLM(model, **OPTIONS, disabled_plugins=["nobody"])
        monkeypatch.setenv(DISABLED_VARIABLE, f"gone-since, {DISTRIBUTION}:main")
        with LLM(model, **OPTIONS) as llm, pytest.raises(PluginError, match="Switched off"):
            llm.generate(SMELLS, GREEDY, use_tqdm=False)
        assert main(["plugins"]) == 0
        out = capsys.readouterr().out
        assert "0 failed, 1 switched off;" in out
        assert f"{DISTRIBUTION}:main (0.1.0, module {MODULE})\n  switched off" in out
    with pytest.raises(ConfigError, match="disabled_plugins is 'scents'"):
        LLM(model, disabled_plugins="scents")


def test_two_plugins_that_answer_to_one_chat_part_are_told(
    installed: Any, using: Using, model: Path
) -> None:
    """Whichever was found last used to win in silence; by the kinds' own names both work."""
    part: Any = {"type": "scent", "scent": ROSE}
    conversation: Any = [{"role": "user", "content": [part]}]
    stench: Any = {"prompt": "<stench>", "multi_modal_data": {"stench": ROSE}}
    kind = "name = 'stench'\n    def split(self, value):\n"
    kind += "        return [replace(i, kind='stench') for i in super().split(value)]"
    adapter = "kind = 'stench'\n    def placeholder(self, index):\n"
    adapter += "        return scent.Placeholder('<stench>', (), '<stench>')\n"
    adapter += "    def process(self, *given):\n"
    adapter += "        return {'snout': super().process(*given)['nose']}"
    spec = "name='snout'"
    with (
        installed(DISTRIBUTION, SOURCE, MODULE),
        using(model, kind=kind, adapter=f"encoders = ('snout',)\n    {adapter}", spec=spec) as llm,
    ):
        with pytest.raises(PluginError, match="part:scent is claimed by odd-scents and scent-for"):
            llm.chat(conversation, GREEDY, use_tqdm=False)
        for output in llm.generate([SMELLS, stench], GREEDY, use_tqdm=False):
            assert len(output.outputs[0].token_ids) == 3


def test_the_same_kind_twice_in_one_return_is_refused(installed: Any, tmp_path: Path) -> None:
    from sensorium.plugins.discovery import discover

    source = textwrap.dedent(PLUGIN).replace("return [Scent]", "return [Scent, Scent]")
    for name in ("KIND", "ADAPTER"):
        source = source.replace(name, "pass")
    (tmp_path / "odd_scents.py").write_text(source.replace("SPEC", "name='nose'"))
    with (
        installed(DISTRIBUTION, SOURCE, MODULE),
        installed("odd-scents", tmp_path, "odd_scents"),
    ):
        (status,) = [s for s in discover().statuses if s.distribution == "odd-scents"]
    assert status.error == (
        "its hook sensorium_media_kinds: returned the class Scent twice in its list"
    )
