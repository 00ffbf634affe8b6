"""What plugins bring together: uniqueness, choices, and what is said where something lacks."""

from pathlib import Path
from typing import Any

import pytest

from sensorium.errors import ConfigError, PluginError
from sensorium.plugins.catalogue import Catalogue, Entry

TOY = "ToyForCausalLM"
CATALOGUE = Catalogue(
    kinds={"scent": Entry("Scent_Shop", "pip install scent-shop")},
    architectures={TOY: Entry("toys", "pip install toys")},
)


def test_everything_is_served_by_name(make: Any) -> None:
    kind, family, adapter = make.kind(part_types=("scent_url",)), make.family(), make.adapter()
    registry = make.registry(
        {"a": make.plugin(kinds=[kind], adapters=[adapter]), "b": make.plugin(families=[family])}
    )
    assert registry.kind("scent") is kind
    assert registry.kind_of_part("scent_url") is kind
    assert registry.family(TOY) is family
    assert registry.adapters(TOY) == {"scent": adapter}
    assert registry.adapter(TOY, "scent") is adapter
    assert registry.encoders(TOY) == {"nose": adapter.own_encoders[0]}
    assert registry.conflicts == {}


def test_encoders_are_the_familys_and_the_adapters(make: Any) -> None:
    family = make.family(encoders=(make.encoder("tower"),))
    shared = make.adapter(kind="taste", own=(), encoders=("tower",))
    registry = make.registry(
        {
            "a": make.plugin(kinds=[make.kind(), make.kind("taste")], families=[family]),
            "b": make.plugin(adapters=[make.adapter(), shared]),
        }
    )
    assert set(registry.encoders(TOY)) == {"tower", "nose"}
    assert set(registry.adapters(TOY)) == {"scent", "taste"}


def test_two_adapters_of_one_plugin_may_share_an_encoder_of_their_own(make: Any) -> None:
    nose = make.encoder()
    both = [make.adapter(kind, own_encoders=(nose,)) for kind in ("scent", "taste")]
    plugin = make.plugin(
        kinds=[make.kind(), make.kind("taste")], families=[make.family()], adapters=both
    )
    registry = make.registry({"a": plugin})
    assert registry.encoders(TOY) == {"nose": nose}
    assert set(registry.adapters(TOY)) == {"scent", "taste"}


def test_a_plugin_that_claims_one_thing_twice_fails(make: Any) -> None:
    twice = make.plugin(kinds=[make.kind(), make.kind()])
    (status,) = make.registry({"a": twice}).statuses
    assert (status.error, status.brings) == ("it claims kind:scent twice", ())


# --- two claims -------------------------------------------------------------------------


def _pair(make: Any, **brings: Any) -> dict[str, Any]:
    """Two plugins with these, and a third that brings what else is needed."""
    rest = {
        "kinds": [make.kind(), make.kind("taste")],
        "families": [make.family(), make.family("OtherForCausalLM")],
    }
    third = make.plugin(**{what: things for what, things in rest.items() if what not in brings})
    return {
        "left": make.plugin(**{what: [call()] for what, call in brings.items()}),
        "right": make.plugin(**{what: [call()] for what, call in brings.items()}),
        "third": third,
    }


def test_two_kinds_of_one_name(make: Any) -> None:
    plugins = _pair(make, kinds=make.kind)
    registry = make.registry(plugins)
    with pytest.raises(PluginError) as caught:
        registry.kind("scent")
    assert str(caught.value) == (
        "kind:scent is claimed by left and right; choose one: "
        "plugin_choices={'kind:scent': 'left'}."
    )
    assert dict(registry.kinds) == {}
    assert registry.family(TOY)  # nothing else is down
    chosen = make.registry(plugins, {"kind:scent": "right"})
    assert chosen.owner_of(chosen.kind("scent")) == "right"
    assert chosen.conflicts == {}


def test_two_families_of_one_architecture(make: Any) -> None:
    plugins = _pair(make, families=lambda: make.family(TOY, "BothForCausalLM"))
    registry = make.registry(plugins)
    with pytest.raises(PluginError, match=f"family:{TOY} is claimed by left and right"):
        registry.family(TOY)
    assert registry.kind("scent")
    chosen = make.registry(plugins, {f"family:{TOY}": "left"})
    assert chosen.owner_of(chosen.family(TOY)) == "left"
    with pytest.raises(PluginError, match="family:BothForCausalLM is claimed by"):
        chosen.family("BothForCausalLM")


def test_two_adapters_of_one_kind_to_one_architecture(make: Any) -> None:
    plugins = _pair(make, adapters=make.adapter)
    registry = make.registry(plugins)
    assert registry.family(TOY)
    assert registry.adapters(TOY) == {}
    assert registry.encoders(TOY) == {}  # text goes on
    with pytest.raises(PluginError, match=f"adapter:{TOY}/scent is claimed by left and right"):
        registry.adapter(TOY, "scent")
    # One choice settles it: the encoder of the adapter that lost is lost with it.
    chosen = make.registry(plugins, {f"adapter:{TOY}/scent": "right"})
    assert chosen.owner_of(chosen.adapter(TOY, "scent")) == "right"
    assert chosen.owner_of(chosen.encoders(TOY)["nose"]) == "right"


def test_one_kind_to_two_architectures_is_no_conflict(make: Any) -> None:
    plugins = _pair(make)
    plugins["left"] = make.plugin(adapters=[make.adapter()])
    plugins["right"] = make.plugin(adapters=[make.adapter(architectures=("OtherForCausalLM",))])
    registry = make.registry(plugins)
    assert registry.conflicts == {}
    assert registry.owner_of(registry.adapter("OtherForCausalLM", "scent")) == "right"


def test_two_encoders_of_one_name(make: Any) -> None:
    plugins = _pair(make)
    plugins["left"] = make.plugin(adapters=[make.adapter("scent")])
    plugins["right"] = make.plugin(adapters=[make.adapter("taste")])
    registry = make.registry(plugins)
    assert registry.adapters(TOY) == {}
    assert registry.encoders(TOY) == {}
    with pytest.raises(PluginError, match=f"encoder:{TOY}/nose is claimed by left and right"):
        registry.adapter(TOY, "taste")
    chosen = make.registry(plugins, {f"encoder:{TOY}/nose": "right"})
    assert set(chosen.adapters(TOY)) == {"scent", "taste"}
    assert chosen.owner_of(chosen.encoders(TOY)["nose"]) == "right"


def test_an_encoder_of_the_family_in_conflict_stops_the_model(make: Any) -> None:
    plugins = {
        "left": make.plugin(families=[make.family(encoders=(make.encoder(),))]),
        "right": make.plugin(kinds=[make.kind()], adapters=[make.adapter()]),
    }
    with pytest.raises(PluginError, match=f"encoder:{TOY}/nose is claimed by left and right"):
        make.registry(plugins).encoders(TOY)


def test_two_kinds_with_one_part_type(make: Any) -> None:
    plugins = {
        "left": make.plugin(kinds=[make.kind("scent", part_types=("smell",))]),
        "right": make.plugin(kinds=[make.kind("stench", part_types=("smell",))]),
    }
    registry = make.registry(plugins)
    assert set(registry.kinds) == {"scent", "stench"}
    with pytest.raises(PluginError, match="part:smell is claimed by left and right; uninstall"):
        registry.kind_of_part("smell")


# --- choices ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claim", ["scent", "kind:", "kinds:scent", "adapter:scent", "encoder:a/b/c", "command:x", ""]
)
def test_a_misspelt_claim_is_told_at_once(make: Any, claim: str) -> None:
    with pytest.raises(ConfigError, match="claims are kind:NAME, family:ARCHITECTURE, adapter:"):
        make.registry({}, {claim: "left"})


def test_a_choice_must_be_a_name(make: Any) -> None:
    with pytest.raises(ConfigError, match="is 3; it must be a distribution's name"):
        make.registry({}, {"kind:scent": 3})


def test_a_choice_that_nobody_serves_is_told(make: Any) -> None:
    plugins = {"left": make.plugin(kinds=[make.kind()])}
    with pytest.raises(ConfigError, match="'right', which doesn't serve it; served by: left"):
        make.registry(plugins, {"kind:scent": "right"}).kind("scent")
    with pytest.raises(ConfigError, match="served by: no installed plugin"):
        make.registry(plugins, {"kind:taste": "left"}).family(TOY)


def test_a_choice_of_a_failed_plugin_tells_its_cause(make: Any) -> None:
    plugins = {
        "left": make.plugin(kinds=[make.kind()]),
        "right": make.plugin(kinds=RuntimeError("no nose")),
    }
    with pytest.raises(ConfigError, match=r"'right', whose plugin failed: its hook .* no nose"):
        make.registry(plugins, {"kind:scent": "right"}).kind("scent")


def test_a_choice_may_spell_the_distribution_in_any_way(make: Any) -> None:
    plugins = {
        "Scent_Shop": make.plugin(kinds=[make.kind()]),
        "b": make.plugin(kinds=[make.kind()]),
    }
    registry = make.registry(plugins, {"kind:scent": "scent-shop"})
    assert registry.owner_of(registry.kind("scent")) == "Scent_Shop"


# --- what lacks -------------------------------------------------------------------------


def _message(call: Any, *arguments: str) -> str:
    with pytest.raises(PluginError) as caught:
        call(*arguments)
    return str(caught.value)


def test_what_no_plugin_serves_is_named(make: Any) -> None:
    registry = make.registry({"a": make.plugin(kinds=[make.kind("taste")])})
    assert _message(registry.kind, "scent") == (
        "No installed plugin serves the kind 'scent' (known: taste). "
        "`sensorium plugins` lists what is installed."
    )
    assert "serves the architecture 'ToyForCausalLM' (known: none)" in _message(
        registry.family, TOY
    )
    assert "answers to the chat part type 'smell_url'" in _message(
        registry.kind_of_part, "smell_url"
    )


def test_the_catalogue_adds_the_line_that_mends_it(make: Any) -> None:
    registry = make.registry({}, catalogue=CATALOGUE)
    install = "Scent_Shop does: pip install scent-shop. "
    assert install in _message(registry.kind, "scent")
    assert install in _message(registry.kind_of_part, "scent_url")
    assert install in str(registry.missing_asset("scent"))
    assert "toys does: pip install toys. " in _message(registry.family, TOY)


def test_the_failed_plugin_that_would_serve_it_is_blamed_alone(make: Any) -> None:
    plugins = {
        "scent-shop": make.plugin(kinds=RuntimeError("no nose")),
        "bystander": make.plugin(kinds=RuntimeError("no luck")),
    }
    message = _message(make.registry(plugins, catalogue=CATALOGUE).kind, "scent")
    assert "The plugin that would failed: scent-shop:in-process: its hook" in message
    assert "no nose" in message
    assert "no luck" not in message
    assert "pip install" not in message


def test_without_a_catalogue_all_failed_plugins_are_told(make: Any) -> None:
    plugins = {
        "scent-shop": make.plugin(kinds=RuntimeError("no nose")),
        "bystander": make.plugin(api=7),
    }
    message = _message(make.registry(plugins).kind, "scent")
    assert "A plugin that might failed: " in message
    assert "no nose" in message
    assert "api = 7" in message


def test_an_installed_version_without_it_is_told(make: Any) -> None:
    plugins = {"scent-shop": make.plugin(kinds=[])}
    message = _message(make.registry(plugins, catalogue=CATALOGUE).kind, "scent")
    assert "Scent_Shop does, but not in the installed version" in message


def test_a_kind_that_a_model_cannot_take(make: Any) -> None:
    plugin = make.plugin(
        kinds=[make.kind(), make.kind("taste")], families=[make.family()], adapters=[make.adapter()]
    )
    registry = make.registry({"a": plugin})
    message = _message(registry.adapter, TOY, "taste")
    assert f"No installed plugin lets {TOY} take the kind 'taste' (known: scent)." in message
    assert "serves the kind 'sight'" in _message(registry.adapter, TOY, "sight")


def test_an_adapter_without_its_encoder_is_left_out_and_told(make: Any) -> None:
    adapter = make.adapter(own=(), encoders=("tower",))
    plugin = make.plugin(kinds=[make.kind()], families=[make.family()], adapters=[adapter])
    registry = make.registry({"a": plugin})
    assert registry.adapters(TOY) == {}
    assert _message(registry.adapter, TOY, "scent").startswith(
        f"The adapter Adapter of a names the encoder 'tower', which no installed plugin "
        f"registers for {TOY}."
    )


def test_an_adapter_without_its_kind_is_left_out(make: Any) -> None:
    plugin = make.plugin(families=[make.family()], adapters=[make.adapter()])
    registry = make.registry({"a": plugin})
    assert registry.adapters(TOY) == {}
    assert "serves the kind 'scent'" in _message(registry.adapter, TOY, "scent")


# --- options and owners -----------------------------------------------------------------


def test_plugin_options_go_to_the_owner(make: Any) -> None:
    adapter = make.adapter()
    plugin = make.plugin(kinds=[make.kind()], families=[make.family()], adapters=[adapter])
    registry = make.registry({"Scent_Shop": plugin, "broken": make.plugin(api=1)})
    options = {"scent-shop": {"strength": 3}}
    registry.check_plugin_options(options)
    for thing in (adapter, registry.family(TOY), registry.encoders(TOY)["nose"]):
        assert registry.options_of(thing, options) == {"strength": 3}
    assert registry.options_of(adapter, {}) == {}
    with pytest.raises(
        ConfigError, match="entry for 'nobody'; installed are Scent_Shop and broken"
    ):
        registry.check_plugin_options({"nobody": {}})
    with pytest.raises(ConfigError, match="broken, whose plugin failed: it states api = 1"):
        registry.check_plugin_options({"broken": {}})
    with pytest.raises(KeyError):
        registry.owner_of(make.kind())


# --- embedded models --------------------------------------------------------------------


def test_a_distributions_model_is_found_by_its_name(make: Any, tmp_path: Path) -> None:
    registry = make.registry({"a": make.plugin(models={"oranges": tmp_path})})
    assert registry.embedded_model("oranges") == tmp_path
    assert registry.embedded_model("apples") is None


def test_a_model_of_two_distributions_is_nobodys(make: Any, tmp_path: Path) -> None:
    plugins = {name: make.plugin(models={"oranges": tmp_path}) for name in ("a", "b")}
    registry = make.registry(plugins)
    with pytest.raises(PluginError, match="model:oranges"):
        registry.embedded_model("oranges")
    assert set(registry.conflicts) == {"model:oranges"}
