"""A home's configuration says what it means, survives its own file and refuses what it does not know."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.config import Config, EncoderConfig, LLMConfig, ScheduleConfig, TideConfig, TrainConfig, parse, render
from schemas.errors import ConfigError


def test_defaults_survive() -> None:
    assert parse(render(Config())) == Config()
    assert parse("") == Config()


@settings(deadline=None)
@given(st.text(), st.text(), st.text(), st.dictionaries(st.text(min_size=1), st.text().map("{}{{text}}".format), max_size=3))
def test_any_string_survives(model: str, prompt: str, cron: str, prompts: dict[str, str]) -> None:
    llm = LLMConfig(prompt=prompt, prompts=prompts)
    config = Config(encoder=EncoderConfig(model=model), llm=llm, schedule=ScheduleConfig(cron=cron))
    assert parse(render(config)) == config
    assert [llm.prompt_of(task) for task in (None, *prompts)] == [prompt, *prompts.values()]
    assert llm.prompt_of("".join([*prompts, "x"])) == prompt


@settings(deadline=None)
@given(
    st.floats(min_value=1e-30, max_value=1e300),
    st.floats(min_value=1e-30, max_value=1e300),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(1, 2**31),
)
def test_any_number_survives(rate: float, hours: float, seed: int, steps: int) -> None:
    config = Config(seed=seed, tide=TideConfig(half_life_hours=hours), train=TrainConfig(learning_rate=rate, steps=steps))
    assert parse(render(config)) == config


def test_every_key_is_there_to_be_edited() -> None:
    written = tomllib.loads(render(Config()))
    for name, value in Config().model_dump().items():
        if isinstance(value, dict):
            assert set(written[name]) == set(value)
        else:
            assert written[name] == value


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[encoder]\nmodle = 'x'", "encoder.modle"),
        ("personaliser = 'tide'", "personaliser"),
        ("[tide]\nslots = 0", "tide.slots"),
        ("[tide]\nslots = 'many'", "tide.slots"),
        ("personalizer = 'oracle'", "personalizer"),
        ("[llm]\nprompts = { a = 1 }", "llm.prompts.a"),
        ("[llm]\nprompts = { a = 'no text' }", "llm.prompts.a"),
        ("[encoder", "not valid TOML"),
    ],
)
def test_what_cannot_be_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        parse(text, where="here/config.toml")
    assert "here/config.toml" in str(caught.value)
    assert caught.value.exit_code == 2
