"""The rules of discovery, proved with wheels that pip installed, each in a process of its own."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import make_qwen2

pytestmark = pytest.mark.slow

HEAD = """
from sensorium.plugins import *
from sensorium.types import Loaded, MediaItem, MediaShape, MediaPlan, Probe
api = 2

class Kind(MediaKind):
    def split(self, value): return []
    def parse_part(self, part_type, value): return MediaItem(self.name, 0)
    def probe(self, sources): return Probe(MediaShape((1,)), 1)
    def load(self, sources): return Loaded(None, MediaShape((1,)))
    def digest(self, sources): return bytes(32)

class Adapter(MediaAdapter):
    def placeholder(self, index): return Placeholder("<x>", (), "<x>")
    def plan(self, shape, options): return MediaPlan(1, (0,))
    def process(self, loaded, plan, options): return {}
    def worst_case(self, options, io_options): return MediaShape((1,))

class Family(ModelFamily):
    def decoder_config(self, config): raise NotImplementedError
    def decoder_weights(self, config): raise NotImplementedError

def encoder(name):
    return EncoderSpec(name, build=lambda context: None, weights=WeightMap(()))
"""
KIND = """
class Scent(Kind):
    name = "scent"

@hookimpl
def sensorium_media_kinds():
    return [Scent]
"""
FAMILY = """
class Toy(Family):
    architectures = ("ToyForCausalLM",)

@hookimpl
def sensorium_model_families():
    return [Toy()]
"""
ADAPTER = """
class ToyScent(Adapter):
    kind = "scent"
    architectures = ("ToyForCausalLM",)
    encoders = ("NAME",)
    own_encoders = (encoder("NAME"),)

@hookimpl
def sensorium_media_adapters():
    return [ToyScent]
"""
TASTE = (KIND + ADAPTER).replace("scent", "taste")


def _plugin(wheelhouse: Any, distribution: str, *parts: str, **options: Any) -> Path:
    """A wheel of a distribution with one plugin."""
    module = f"{distribution}_plugin"
    files = {module: HEAD + "".join(parts).replace("NAME", options.pop("encoder", "nose"))}
    wheel: Path = wheelhouse.wheel(distribution, files, entries={"main": module}, **options)
    return wheel


def _ask(wheelhouse: Any, site: Path, code: str, *more: Path) -> str:
    """What a program prints that has a registry ``r`` and a function ``told``."""
    program = """
        from sensorium.errors import SensoriumError
        from sensorium.plugins.discovery import discover

        def told(call, *arguments):
            try:
                call(*arguments)
            except SensoriumError as error:
                print(type(error).__name__ + ": " + str(error))
            else:
                print("nothing was told")

        r = discover()
    """
    program = textwrap.dedent(program) + textwrap.dedent(code)
    done = wheelhouse.run("-c", program, sites=(site, *more))
    assert done.returncode == 0, done.stderr
    printed: str = done.stdout
    return printed.strip()


def _listing(wheelhouse: Any, site: Path) -> str:
    done = wheelhouse.run("-m", "sensorium", "plugins", sites=(site,))
    assert done.returncode == 0, done.stderr
    listing: str = done.stdout
    return listing


# --- uniqueness ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "claim", "question"),
    [
        ((KIND,), (KIND,), "kind:scent", "r.kind('scent')"),
        ((FAMILY,), (FAMILY,), "family:ToyForCausalLM", "r.family('ToyForCausalLM')"),
        (
            (KIND, FAMILY, ADAPTER),
            (ADAPTER.replace("NAME", "other"),),
            "adapter:ToyForCausalLM/scent",
            "r.adapter('ToyForCausalLM', 'scent')",
        ),
        (
            (KIND, FAMILY, ADAPTER),
            (TASTE,),
            "encoder:ToyForCausalLM/nose",
            "r.adapter('ToyForCausalLM', 'scent')",
        ),
    ],
    ids=["kind", "family", "adapter", "encoder"],
)
def test_two_claims_are_an_error_that_a_choice_mends(
    wheelhouse: Any, left: Any, right: Any, claim: str, question: str
) -> None:
    site = wheelhouse.install(
        _plugin(wheelhouse, "left", *left), _plugin(wheelhouse, "right", *right)
    )
    conflict = f"{claim} is claimed by left and right; choose one: "
    assert conflict in _ask(wheelhouse, site, f"told(lambda: {question})")
    for chosen in ("left", "right"):
        code = f"r = discover({{{claim!r}: {chosen!r}}}); told(lambda: {question})"
        assert _ask(wheelhouse, site, code) == "nothing was told"
    # Nobody else is disturbed, and the list shows it.
    assert _ask(wheelhouse, site, "print(type(r.family('LlamaForCausalLM')).__name__)")
    listing = _listing(wheelhouse, site)
    assert f"In conflict:\n  {conflict}" in listing
    assert "left:main (1.0, module left_plugin)\n  FAILED" not in listing


def test_an_unknown_choice_is_an_error(wheelhouse: Any) -> None:
    site = wheelhouse.install(_plugin(wheelhouse, "left", KIND))
    told = _ask(
        wheelhouse,
        site,
        """
        told(lambda: discover({"kind:scent": "nobody"}).kind("scent"))
        told(lambda: discover({"kind:sound": "left"}).kind("scent"))
        told(lambda: discover({"scent": "left"}))
        """,
    ).splitlines()
    assert [line.split(":")[0] for line in told] == ["ConfigError"] * 3
    assert "'nobody', which doesn't serve it; served by: left" in told[0]
    assert "served by: no installed plugin" in told[1]
    assert "claims are kind:NAME" in told[2]


# --- failures -----------------------------------------------------------------------------

SOUND = "sound:main (1.0, module sound_plugin)\n  kinds:      taste\n"


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_module", "importing broken_plugin raised ModuleNotFoundError: No module"),
        ("def broken(:", "importing broken_plugin raised SyntaxError: invalid syntax"),
        ("import sys; sys.exit('bye')", "importing broken_plugin raised SystemExit: bye"),
        ("class Odd(BaseException): pass\nraise Odd", "importing broken_plugin raised Odd"),
        (HEAD.replace("api = 2", "api = 1"), "it states api = 1; this sensorium-core serves api ="),
        (HEAD.replace("api = 2", ""), "it states no api; this sensorium-core serves api = 2"),
        (
            HEAD + KIND.replace("media_kinds", "media_kind"),
            "sensorium_media_kind is no hook; did you mean sensorium_media_kinds?",
        ),
        (HEAD + KIND.replace("@hookimpl", ""), "its sensorium_media_kinds lacks the decorator"),
        (
            HEAD + KIND.replace("[Scent]", "Scent"),
            "its hook sensorium_media_kinds: returned the class Scent; it must be a list",
        ),
        (
            HEAD + KIND.replace("[Scent]", "1 / 0"),
            "its hook sensorium_media_kinds raised ZeroDivisionError: division by zero",
        ),
        (
            HEAD + KIND.replace("name =", "title ="),
            "its hook sensorium_media_kinds: the kind Scent states no name",
        ),
        (
            HEAD + KIND + FAMILY.replace("[Toy()]", "[Toy]"),
            "its hook sensorium_model_families: returned the class Toy in its list",
        ),
    ],
    ids=(
        "import syntax exit base-exception version no-version misspelt undecorated wrong-type "
        "raises no-name second-hook"
    ).split(),
)
def test_a_plugin_that_fails_fails_alone(wheelhouse: Any, source: str, cause: str) -> None:
    broken = wheelhouse.wheel(
        "broken", {"broken_plugin": source}, entries={"main": "broken_plugin"}
    )
    sound = _plugin(wheelhouse, "sound", KIND.replace('"scent"', '"taste"'))
    site = wheelhouse.install(broken, sound)
    listing = _listing(wheelhouse, site)
    assert f"broken:main (1.0, module broken_plugin)\n  FAILED: {cause}" in listing
    assert SOUND in listing
    told = _ask(wheelhouse, site, "told(r.kind, 'scent'); told(r.kind, 'taste')").splitlines()
    missing = "MissingPluginError: No installed plugin serves the kind 'scent' (known: "
    assert told[0].startswith(missing)
    assert f"A plugin that might failed: broken:main: {cause}" in told[0]
    assert told[1] == "nothing was told"


def test_what_no_plugin_serves_is_named(wheelhouse: Any) -> None:
    site = wheelhouse.install(_plugin(wheelhouse, "left", FAMILY))
    told = _ask(
        wheelhouse,
        site,
        """
        told(r.kind, "scent")
        told(r.family, "NoSuchForCausalLM")
        told(r.adapter, "ToyForCausalLM", "scent")
        """,
    ).splitlines()
    assert "serves the kind 'scent'" in told[0]
    assert "serves the architecture 'NoSuchForCausalLM'" in told[1]
    assert "serves the kind 'scent'" in told[2]
    assert all(line.endswith("`sensorium plugins` lists what is installed.") for line in told)


def test_an_adapter_whose_encoder_nobody_registers_is_told(wheelhouse: Any) -> None:
    orphan = re.sub(r"own_encoders = .*", "", ADAPTER)
    site = wheelhouse.install(_plugin(wheelhouse, "left", KIND, FAMILY, orphan))
    code = "told(r.adapter, 'ToyForCausalLM', 'scent'); print(r.adapters('ToyForCausalLM'))"
    told, adapters = _ask(wheelhouse, site, code).splitlines()
    assert "adapter ToyScent of left names the encoder 'nose', which no installed plugin" in told
    assert adapters == "{}"


CATALOGUE = """
[kinds]
scent = { distribution = "scents", install = "pip install 'scents[all]'" }
[architectures]
ToyForCausalLM = { distribution = "scents", install = "pip install 'scents[all]'" }
"""


def test_the_catalogue_gives_the_line_that_mends_it(wheelhouse: Any) -> None:
    empty = wheelhouse.install(_plugin(wheelhouse, "left"))
    # A catalogue in front of the one that is installed here.
    umbrella = empty.with_name("umbrella") / "sensorium_catalogue"
    umbrella.mkdir(parents=True)
    (umbrella / "__init__.py").write_text("")
    (umbrella / "catalogue.toml").write_text(CATALOGUE)
    code = "told(r.kind, 'scent'); told(r.family, 'ToyForCausalLM')"
    for line in _ask(wheelhouse, empty, code, umbrella.parent).splitlines():
        assert "scents does: pip install 'scents[all]'." in line
    broken = wheelhouse.wheel("scents", {"scents": "1 / 0"}, entries={"main": "scents"})
    site = wheelhouse.install(broken, folder="broken")
    for line in _ask(wheelhouse, site, code, umbrella.parent).splitlines():
        assert "The plugin that would failed: scents:main: importing scents raised Zero" in line
        assert "pip install" not in line


# --- distributions ------------------------------------------------------------------------


def test_two_entry_points_of_one_distribution_are_two_plugins(wheelhouse: Any) -> None:
    wheel = wheelhouse.wheel(
        "pair", {"good": HEAD + KIND, "bad": "1 / 0"}, entries={"a": "good", "b": "bad"}
    )
    listing = _listing(wheelhouse, wheelhouse.install(wheel))
    assert "pair:a (1.0, module good)\n  kinds:      scent\n" in listing
    assert "pair:b (1.0, module bad)\n  FAILED: importing bad raised ZeroDivision" in listing


def test_a_distribution_that_is_there_twice_counts_once_the_first(wheelhouse: Any) -> None:
    """As where one lies both in a folder of PYTHONPATH and in site-packages."""
    old = wheelhouse.install(_plugin(wheelhouse, "double", KIND, version="1.0"), folder="old")
    new = wheelhouse.install(
        _plugin(wheelhouse, "double", KIND.replace("scent", "taste"), version="2.0"), folder="new"
    )
    code = "print([s.version for s in r.statuses if s.distribution == 'double'])"
    code += "; print('scent' in r.kinds, 'taste' in r.kinds)"
    assert _ask(wheelhouse, old, code, new) == "['1.0']\nTrue False"
    assert _ask(wheelhouse, new, code, old) == "['2.0']\nFalse True"


def test_commands_and_assets_come_with_wheels(wheelhouse: Any) -> None:
    brings = """
    from sensorium.plugins import Command, hookimpl
    api = 2

    @hookimpl
    def sensorium_commands():
        return [Command("sniff", "smell", lambda parser: None, lambda arguments: print("hm") or 4)]

    @hookimpl
    def sensorium_assets():
        import scent_samples
        return {"scent": scent_samples}
    """
    files = {"scents": brings, "scent_samples": "ScentAsset = 'a rose'"}
    site = wheelhouse.install(wheelhouse.wheel("scents", files, entries={"main": "scents"}))
    done = wheelhouse.run("-m", "sensorium", "sniff", sites=(site,))
    assert (done.returncode, done.stdout) == (4, "hm\n")
    code = "from sensorium.assets.scent import ScentAsset; print(ScentAsset)"
    assert wheelhouse.run("-c", code, sites=(site,)).stdout == "a rose\n"
    missing = wheelhouse.run("-c", "import sensorium.assets.taste", sites=(site,))
    assert "ModuleNotFoundError: No installed plugin brings assets of the kind 'taste'" in (
        missing.stderr
    )


def test_the_foreign_plugins_wheel_builds_and_installs(wheelhouse: Any) -> None:
    wheel = wheelhouse.build(Path(__file__).with_name("foreign"))
    site = wheelhouse.install(wheel)
    assert (site / "scent_for_sensorium" / "nose.safetensors").is_file()
    assert (
        "scent-for-sensorium:scent (0.1.0, module scent_for_sensorium.plugin)\n"
        "  kinds:      scent\n"
        "  chat parts: scent\n"
        "  adapters:   LlamaForCausalLM/scent, Qwen2ForCausalLM/scent, "
        "Qwen2_5_VLForConditionalGeneration/scent\n"
        "  encoders:   LlamaForCausalLM/nose, Qwen2ForCausalLM/nose, "
        "Qwen2_5_VLForConditionalGeneration/nose\n"
    ) in _listing(wheelhouse, site)


def test_the_foreign_plugins_wheel_is_answered_from(wheelhouse: Any, tmp_path: Path) -> None:
    """Installed by pip, in a process of its own, on an ordinary checkpoint."""
    folder = make_qwen2(tmp_path / "model", seed=5)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    site = wheelhouse.install(wheelhouse.build(Path(__file__).with_name("foreign")))
    program = f"""
        from sensorium import LLM, SamplingParams

        greedy = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
        scents = [[1.0] * 8, [-2.0] * 4 + [2.0] * 4]
        with LLM({str(folder)!r}, dtype="float32", max_model_len=128) as llm:
            media = [{{"scent": [scent]}} for scent in scents]
            prompts = [{{"prompt": "It is <scent>", "multi_modal_data": m}} for m in media]
            parts = [[{{"type": "scent", "scent": scent}}] for scent in scents]
            chats = [[{{"role": "user", "content": content}}] for content in parts]
            outputs = llm.generate(prompts, greedy, use_tqdm=False)
            outputs += llm.chat(chats, greedy, use_tqdm=False)
        answers = [output.outputs[0].token_ids for output in outputs]
        print(answers[0] != answers[1], answers[2] != answers[3], sum(map(len, answers)))
    """
    done = wheelhouse.run("-c", textwrap.dedent(program), sites=(site,))
    assert (done.returncode, done.stdout) == (0, "True True 32\n"), done.stderr
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
