"""Configuration of a home: one TOML file, every key with its default and meaning."""

import json
import re
import tomllib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import ConfigError

#: Beam's own runner. Its short names stand for another runner that is looked for on the network first.
FN_API = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


#: A key that TOML takes without quotes.
_BARE = re.compile(r"[A-Za-z0-9_-]+")


class Section(BaseModel):
    """A frozen table of the configuration; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderConfig(Section):
    """The frozen text encoder; all of it goes into the encoder's fingerprint, the device does not."""

    model: str = Field("", description="Hugging Face encoder, by directory or id; empty: the bundled MiniLM")
    max_tokens: int = Field(256, ge=8, description="longest text in tokens; the rest is cut")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="precision of the arithmetic")


class TideConfig(Section):
    """Shape of the default personalizer's state and head."""

    slots: int = Field(8, ge=1, description="slots of the long memory, K")
    dim: int = Field(64, ge=8, description="width of an item code, D")
    target_share: float = Field(0.5, ge=0, le=0.9, description="share of an item code that its target alone fills; 0: shared with all else")
    window: int = Field(64, ge=1, description="items in the short memory, M")
    hidden: int = Field(128, ge=8, description="width of the item network's hidden layer")
    half_life_hours: float = Field(6.0, gt=0, description="shortest initial half-life")
    half_life_days: float = Field(1460.0, gt=0, description="longest initial half-life; one slot never decays")


class PplugConfig(Section):
    """Persona-Plug: a bank of item embeddings, and attention by likeness."""

    items: int = Field(512, ge=1, description="latest items kept of each user")


class TapperConfig(Section):
    """TAP-PER: a bank of item embeddings, time-aware attention, and a learned row for each user."""

    items: int = Field(512, ge=1, description="latest items kept of each user")
    time: bool = Field(True, description="penalties on an item's age and place")
    row: bool = Field(True, description="keep a learned prefix of each user; it belongs to one LLM")
    bridge: int = Field(0, ge=0, description="rank of a LoRA on the LLM's attention, learned with the head for all users; 0: none")
    row_events: int = Field(64, ge=1, description="latest events with a target that one refresh fits a row to")
    row_session: int = Field(8, ge=1, description="events of one gradient step")
    row_steps: int = Field(2, ge=1, description="gradient steps on each session")
    row_rate: float = Field(0.03, gt=0, description="length of a gradient step, as rms in units of the neutral prefix")


class LLMConfig(Section):
    """The frozen LLM the fusion head fits."""

    model: str = Field("", description="Hugging Face causal or seq2seq model, by directory or id; empty: tuned from the home's events")
    prompt: str = Field("{text} =>", description="how a query becomes the LLM's input")
    prompts: dict[Annotated[str, Field(min_length=1)], Annotated[str, Field(pattern=r"\{text\}")]] = Field(
        {}, description="prompts of tasks by their names, each with a {text}; others get ``prompt``"
    )
    item: str = Field("{text} => {target}; ", description="how a past event is shown in a prompt")
    max_prompt_tokens: int = Field(192, ge=4, description="longest prompt in tokens; its end is kept")
    max_target_tokens: int = Field(24, ge=2, description="longest target in tokens")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="precision of weights and arithmetic")

    def prompt_of(self, task: str | None) -> str:
        """The prompt of a task, or of none."""
        return self.prompts.get(task, self.prompt) if task is not None else self.prompt


class TrainConfig(Section):
    """Training of aggregator and head against the frozen LLM."""

    prefix_length: int = Field(8, ge=1, description="soft-prompt vectors, L")
    history: int = Field(128, ge=1, description="most recent items an example's history holds in training")
    batch_size: int = Field(32, ge=2)
    steps: int = Field(800, ge=1, description="most optimizer steps")
    learning_rate: float = Field(3e-3, gt=0, description="of the optimizer; worth trying a third of it and, with pplug, three times it")
    patience: int = Field(4, ge=1, description="evaluations without gain before training stops")
    evaluate_every: int = Field(100, ge=1, description="steps between evaluations on the held-out slice")
    held_out: float = Field(0.1, gt=0, lt=1, description="share of examples, the latest in time, held out for early stopping")
    evaluated: int = Field(512, ge=1, description="held-out examples that one evaluation looks at")
    max_examples: int = Field(20_000, ge=10, description="examples sampled, at most")
    max_lag_nights: int = Field(7, ge=0, description="extra age of a training history, drawn from 0 to this")
    query_dropout: float = Field(0.3, ge=0, le=1, description="share of batches with the query masked (static prefix)")
    history_dropout: float = Field(0.15, ge=0, le=1, description="share of examples with the history masked (default prefix)")
    relabelled: float = Field(
        0.5, ge=0, le=1, description="share of tide's examples from copies of users whose labels are exchanged; where targets are labels"
    )
    llm_steps: int = Field(600, ge=1, description="steps of tuning when the LLM is made from the home's events")


class RefreshConfig(Section):
    """How a night is cut into shards."""

    shard_events: int = Field(65_536, ge=64, description="events a shard holds, about")
    shard_users: int = Field(16_384, ge=1, description="users a shard holds, about")
    shard_megabytes: int = Field(512, ge=16, description="memory that the work on one shard takes, about; cuts shards where it binds first")
    retries: int = Field(2, ge=0, description="further tries of a shard that failed")


class EngineConfig(Section):
    """Where shards run."""

    name: Literal["local", "beam"] = Field("local", description="local: in this process")
    runner: str = Field(FN_API, description="Beam runner, by its short name or its class's full name")
    options: tuple[str, ...] = Field((), description="options for the Beam runner, as its documentation writes them")


class CheckConfig(Section):
    """Lines that a new version must not cross to be promoted."""

    min_coverage: float = Field(0.95, ge=0, le=1, description="users with events, over the parent's")
    max_bad_states: float = Field(0.0, ge=0, le=1, description="share of changed states with NaN or infinity")
    max_zero_states: float = Field(0.0, ge=0, le=1, description="share of changed users with events whose vector is zero")
    max_norm_ratio: float = Field(20.0, gt=0, description="largest state norm over the median of the changed users' states")
    max_prefix_ratio: float = Field(10.0, gt=1, description="largest factor, up or down, between a prefix's rms and the LLM's embeddings'")
    max_shift_p50: float = Field(0.5, ge=0, le=2, description="median of 1 - cosine between changed users' states and the parent's")
    max_shift_p99: float = Field(1.5, ge=0, le=2, description="its 99th percentile")
    min_neighbour_overlap: float = Field(0.1, ge=0, le=1, description="share of a panel user's 10 nearest users that stay the same")
    max_domain_auc: float = Field(
        0.95, ge=0.5, le=1, description="how well a classifier tells the panel's states from the parent's, as AUC"
    )
    min_users: int = Field(100, ge=3, description="fewest users that the four above are judged on; below, they are left out")


class BundleConfig(Section):
    """Serving bundles."""

    valid_days: int = Field(30, ge=1, description="days after which a bundle's answers count as expired")
    states: Literal["float16", "int8"] = Field("float16", description="precision of states; int8 has a scale for each row of a column")
    layers: int = Field(1, ge=1, le=32, description="bundles that may lie stacked: 1: each is full; more: deltas in between")


class MaintainConfig(Section):
    """What ``tapstate maintain`` keeps."""

    keep_versions: int = Field(30, ge=1, description="newest versions of every line that are never retired")
    keep_days: float = Field(30, ge=0, description="days during which no version is retired")
    keep_bundles: int = Field(3, ge=1, description="newest bundles on the shelf; the current one and those of aliases stay too")
    keep_pulls: int = Field(1000, ge=0, description="newest records of who pulled a bundle")
    grace_minutes: float = Field(60, ge=0, description="how long a reader may go on reading files that were replaced")


class ScheduleConfig(Section):
    """The nightly deployment."""

    cron: str = "30 1 * * *"
    timezone: str = "UTC"


Personalizer = Literal["tide", "pplug", "tapper"]


class Config(Section):
    """``config.toml`` of a home."""

    personalizer: Personalizer = "tide"
    seed: int = 0
    encoder: EncoderConfig = EncoderConfig()
    tide: TideConfig = TideConfig()
    pplug: PplugConfig = PplugConfig()
    tapper: TapperConfig = TapperConfig()
    llm: LLMConfig = LLMConfig()
    train: TrainConfig = TrainConfig()
    refresh: RefreshConfig = RefreshConfig()
    engine: EngineConfig = EngineConfig()
    checks: CheckConfig = CheckConfig()
    bundle: BundleConfig = BundleConfig()
    maintain: MaintainConfig = MaintainConfig()
    schedule: ScheduleConfig = ScheduleConfig()


def parse(text: str | bytes, *, where: str = "config.toml") -> Config:
    """Config from TOML.

    Raises:
        ConfigError: not TOML, an unknown key, or a value out of range; names the key.
    """
    try:
        return Config.model_validate(tomllib.loads(text if isinstance(text, str) else text.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not valid TOML: {error}", where=where, mend=f"edit {where}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{key}: {first['msg']}", where=where, mend=f"edit {key} in {where}") from error


def settings(config: Config) -> dict[str, Any]:
    """What a configuration says otherwise than the defaults, by dotted key; where shards run is left out: it shapes no state."""
    found: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json", exclude_defaults=True, exclude={"engine"}).items():
        found |= {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    return found


def render(config: Config) -> str:
    """TOML of every key, each with its meaning as a comment; ``parse(render(c)) == c``."""
    lines: list[str] = []
    sections: list[tuple[str, Section]] = []
    for name in Config.model_fields:
        value = getattr(config, name)
        if isinstance(value, Section):
            sections.append((name, value))
        else:
            lines.append(f"{name} = {_toml(value)}")
    for name, section in sections:
        lines += ["", f"[{name}]  # {(type(section).__doc__ or '').splitlines()[0]}"]
        for key, field in type(section).model_fields.items():
            comment = f"  # {field.description}" if field.description else ""
            lines.append(f"{key} = {_toml(getattr(section, key))}{comment}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        # A JSON string is a TOML one, but for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        pairs = (f"{key if _BARE.fullmatch(key) else _toml(key)} = {_toml(item)}" for key, item in value.items())
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    return repr(value).lower() if isinstance(value, bool) else repr(value)
