"""A BERT of some thousand random weights with its tokenizer, as sentence-transformers saves one: real, and tiny."""

import json
from pathlib import Path

DIMENSIONS = 16
MAX_TOKENS = 32
_TEXT = "a the cat dog sits on mat hello world model short every should be able to read that it"


def write_tiny_bert(folder: Path, *, pooling: bool = True) -> Path:
    """Writes the model; without `pooling`, a plain transformer without modules.json. The same weights every time."""
    import torch  # noqa: PLC0415 - seconds, only for the tests that need it
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast  # noqa: PLC0415 - as above

    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_tokenizer(),
        model_max_length=MAX_TOKENS,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=DIMENSIONS,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=MAX_TOKENS,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if pooling:
        _write_modules(folder)
    return folder


def _tokenizer() -> object:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: PLC0415 - as above

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*special, *_TEXT.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    return tokenizer


def _write_modules(folder: Path) -> None:
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    pooling = {"word_embedding_dimension": DIMENSIONS, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": MAX_TOKENS}))
