"""``tapstate init``: make a home."""

from typing import Annotated

import typer

from flows.commands import home_uri
from flows.console import Output, OutputOption, emit, note


def init(
    encoder: Annotated[str, typer.Option(help="Hugging Face text encoder, directory or id. (default: the bundled MiniLM)")] = "",
    llm: Annotated[str, typer.Option(help="Hugging Face LLM, directory or id. (default: tuned from the home's events by train)")] = "",
    seed: Annotated[int, typer.Option(help="Seed of everything drawn at random.")] = 0,
    output: OutputOption = Output.table,
) -> None:
    """Make a home with a commented config.toml; a home that is there already stays as it is."""
    from schemas.config import Config, EncoderConfig, LLMConfig
    from store.home import CONFIG, Home

    config = Config(seed=seed, encoder=EncoderConfig(model=encoder), llm=LLMConfig(model=llm))
    home, made = Home.create(home_uri(), config)
    if not made:
        note(f"{home.uri} is a home already; edit {CONFIG} there to change it")
    emit({"home": home.uri, "home_id": home.record.home_id, "created": made}, output)
