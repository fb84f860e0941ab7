"""Small models and random events shared by the encoder tests; nothing comes from the network."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from encoders.head import TideHead
from encoders.llm import FrozenLLM
from encoders.personalizer import EventBatch
from encoders.text import TextEncoder, default_model
from encoders.tide import Tide
from schemas.config import EncoderConfig, LLMConfig, TideConfig

TODAY = 1_760_000_000
TEXT_DIM = 16
CORPUS = [
    "the council fixed a broken street lamp in the old town",
    "a new recipe for bread with olives and rosemary",
    "merge branch main: fix race in the scheduler of tasks",
    "review: four stars, a slow film with a fine ending",
    "sport news politics science food music",
] * 4


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def minilm() -> TextEncoder:
    return TextEncoder(EncoderConfig())


@pytest.fixture(scope="session")
def tiny_encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer BERT with random weights and MiniLM's tokenizer."""
    directory = tmp_path_factory.mktemp("tiny-bert")
    tokenizer = AutoTokenizer.from_pretrained(default_model())
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tide_config() -> TideConfig:
    return TideConfig(slots=4, dim=8, window=5, hidden=16)


def new_tide(config: TideConfig) -> Tide:
    torch.manual_seed(1)
    return Tide(config, TEXT_DIM)


def new_head(tide: Tide) -> TideHead:
    """A head whose last layers are random, so that prefixes depend on query and state."""
    torch.manual_seed(2)
    head = TideHead(tide.config, 12, 6, torch.randn(3, 6), 0.5, False)
    head.bind(tide)
    for weight in (head.out.weight, head.out.bias, head.naming.weight):
        torch.nn.init.normal_(weight, std=0.3)
    return head.eval()


@pytest.fixture
def tide(tide_config: TideConfig) -> Tide:
    return new_tide(tide_config)


@pytest.fixture
def random_head(tide: Tide) -> TideHead:
    return new_head(tide)


@pytest.fixture(scope="session")
def tide_and_head(tide_config: TideConfig) -> tuple[Tide, TideHead]:
    """As ``tide`` and ``random_head``, made once: not to be changed."""
    tide = new_tide(tide_config)
    return tide, new_head(tide)


@pytest.fixture(scope="session")
def random_events() -> Callable[..., EventBatch]:
    """Makes events of random users over two years before ``TODAY``, a third without target, a third without value."""

    def make(count: int, users: int, seed: int = 0) -> EventBatch:
        rng = np.random.default_rng(seed)
        text, target = (rng.standard_normal((count, TEXT_DIM)) for _ in range(2))
        target[rng.random(count) < 0.33] = 0
        value = rng.standard_normal(count).astype(np.float32)
        value[rng.random(count) < 0.33] = np.nan
        return EventBatch(
            user=rng.integers(0, users, count),
            ts=TODAY - rng.integers(0, 2 * 365 * 86_400, count),
            key=rng.permutation(count).astype(np.int64),
            text=(text / 4).astype(np.float16),
            target=(target / 4).astype(np.float16),
            value=value,
        )

    return make


@pytest.fixture(scope="session")
def pick() -> Callable[..., EventBatch]:
    """Some events of a batch, with their users renumbered by ``users``."""

    def some(events: EventBatch, rows: np.ndarray, users: np.ndarray | None = None) -> EventBatch:
        taken = EventBatch(*(array[rows] for array in vars(events).values() if array is not None))
        return taken if users is None else replace(taken, user=users[taken.user])

    return some


def _bpe(**special: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    names = list(dict.fromkeys(special.values()))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _gpt2() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _bpe(bos_token="<|end|>", eos_token="<|end|>")
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=512, **ids)), tokenizer


def _llama() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _bpe(pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **shape, **ids)), tokenizer


def _t5() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _bpe(pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    ids = {"pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": tokenizer.eos_token_id}
    config = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, **ids)
    return T5ForConditionalGeneration(config), tokenizer


def _berts() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = AutoTokenizer.from_pretrained(default_model())
    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(**shape), BertConfig(**shape))
    config.decoder_start_token_id, config.pad_token_id = tokenizer.cls_token_id, tokenizer.pad_token_id
    return EncoderDecoderModel(config), tokenizer


LLMS = {"gpt2": _gpt2, "llama": _llama, "t5": _t5, "bert2bert": _berts}


@pytest.fixture(scope="session")
def tiny_llms() -> Callable[[str], FrozenLLM]:
    """Frozen random LLMs by name, each made once; wide embeddings, so that inputs matter."""
    made: dict[str, FrozenLLM] = {}

    def get(name: str) -> FrozenLLM:
        if name not in made:
            torch.manual_seed(3)
            model, tokenizer = LLMS[name]()
            for weights in model.parameters():
                if weights.dim() == 2:
                    torch.nn.init.normal_(weights, std=0.2)
            made[name] = FrozenLLM(model, tokenizer, LLMConfig(max_prompt_tokens=60, max_target_tokens=12))
        return made[name]

    return get


@pytest.fixture(params=list(LLMS))
def llm(request: pytest.FixtureRequest, tiny_llms: Callable[[str], FrozenLLM]) -> FrozenLLM:
    return tiny_llms(request.param)
