"""Small models of every task, as folders: a vocabulary of a few words, seeded weights, heads and labels.

tools/make_task_golden.py writes the same folders, runs the pipelines of transformers and sentence-transformers on
them, and stores what they answer in tasks.json.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from lepton_edge.models.registry import spec_from_config

from .recipe import GOLDEN, _hash, _normal, _write_safetensors

ANSWERS = GOLDEN / "tasks.json"

VOCABULARY = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] the cat sat on mat dog bird ran to in a big small red house of london paris "
    "micro ##soft ##s ##ing go went was who where what is it he she they example this about sport money risk . , ? ' "
    "- é 日 本 ##本 new york bank ##er ##ly quick ##ness"
)
WORDS = VOCABULARY.split()

MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("Ġ", "m"), ("Ġm", "a"),
          ("Ġma", "t"), ("i", "n"), ("n", "e"), ("ne", "w"), ("Ġ", "new"), ("o", "n"), ("l", "on"), ("Ġ", "lon"),
          ("d", "on"), ("Ã", "©")]  # fmt: skip
BYTE_TOKENS = ("<s>", "</s>", "<pad>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet()),
               *(left + right for left, right in MERGES))  # fmt: skip
SHORT_TEXTS = ["the cat, the  mat", "new london é日 x", " the cat"]

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
         "max_position_embeddings": 40, "type_vocab_size": 2}  # fmt: skip
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]

TEXTS = [
    "the cat sat on the mat .",
    "microsoft went to london , the big bankers house",
    "é日本 ? who is it",
    "quickly the quickness of the dogs, going in new york - paris's bank",
    "zebra the cat",
    "the",
]
SENTENCES_IN_ENGLISH = [
    "A small boat drifts past the lighthouse at dawn.",
    "Please reset my password, I cannot log in any more!",
    "The bank lowered its interest rates by 0.25% on Tuesday.",
    "Der Zug nach München hat zwanzig Minuten Verspätung.",
    "",
    "naïve café 東京 😀 " * 60,
]
CONTEXT = (
    "the cat sat on the mat . the dog ran to the big red house in london . she went to paris in a small bank , "
    "and they is about money . he was in new york "
    "and went to the bank of london . where is the cat ? the microsoft house , the quick dogs"
)
QUESTIONS = ["who sat on the mat ?", "where was he ?"]
MASKED = ["the cat [MASK] on the mat .", "[MASK] went to [MASK] ."]
STORY = (_hash("story", 150) % np.uint64(98) + np.uint64(3)).astype(np.int32)  # ids of recipe's llama_smollm
WINDOWS = [(64, 64), (64, 20), (30, 7), (200, 200)]
HYPOTHESES = ["sport", "money", "big risk"]


def config(name: str) -> dict[str, Any]:
    """The config.json of one of NAMES."""
    head, _, kind = name.partition("_")
    architecture = {
        "embed": "BertModel", "classes": "BertForSequenceClassification", "rank": "BertForSequenceClassification",
        "nli": "BertForSequenceClassification", "tags": "BertForTokenClassification",
        "answer": "BertForQuestionAnswering", "fill": "BertForMaskedLM",
    }[head]  # fmt: skip
    labels = {
        "classes": ["calm", "angry", "glad"], "rank": ["LABEL_0"], "nli": ["contradiction", "neutral", "entailment"],
        "tags": TAGS,
    }.get(head)  # fmt: skip
    made: dict[str, Any] = {"architectures": [architecture], "model_type": "bert", **SIZES}
    made["vocab_size"] = len(BYTE_TOKENS) if kind == "bytes" else len(WORDS)
    if labels is not None:
        made["id2label"] = {str(i): label for i, label in enumerate(labels)}
        made["label2id"] = {label: i for i, label in enumerate(labels)}
    problems = {"several": "multi_label_classification", "regression": "regression"}
    if kind in problems:
        made["problem_type"] = problems[kind]
    return made


NAMES = [
    "tags_bytes", "answer_bytes", "embed", "classes", "classes_several", "classes_regression",
    "rank", "nli", "tags", "answer", "fill",
]


def write_folder(name: str, folder: Path, **fields: Any) -> Path:
    """One of NAMES as a model folder.  fields: of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {**config(name), **fields}
    (folder / "config.json").write_text(json.dumps(values))
    shapes = spec_from_config(values, name).tensors()
    made = {tensor: _values(f"{name}/{tensor}", tensor, shape) for tensor, shape in shapes.items()}
    _write_safetensors(folder / "model.safetensors", made, "F32")
    (write_byte_tokenizer if name.endswith("_bytes") else write_tokenizer)(folder)
    return folder


def write_byte_tokenizer(folder: Path) -> None:
    """RoBERTa's kind of tokenizer: bytes and merges, where spaces belong to words."""
    ids = {token: i for i, token in enumerate(BYTE_TOKENS)}
    tokenizer = Tokenizer(models.BPE(ids, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), True, False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(BYTE_TOKENS[:4]))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>",
             "unk_token": "<unk>"}  # fmt: skip
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": SIZES["max_position_embeddings"],
                "model_input_names": ["input_ids", "attention_mask"]}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | names))


def write_tokenizer(folder: Path) -> None:
    """BERT's kind of tokenizer, with [CLS] and [SEP] around texts."""
    ids = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": SIZES["max_position_embeddings"],
                "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | names))


def write_sentences(folder: Path, modes: list[str], *, dense: int = 0, normalize: bool = False, most: int | None = None,
                    **settings: Any) -> Path:  # fmt: skip
    """`embed` as a sentence-transformers folder.  settings: config_sentence_transformers.json."""
    write_folder("embed", folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    hidden = SIZES["hidden_size"]
    flags = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken",
             "mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "weightedmean": "weightedmean_tokens"}  # fmt: skip
    pooling = {"word_embedding_dimension": hidden}
    pooling |= {f"pooling_mode_{flag}": mode in modes for mode, flag in flags.items()}
    include = settings.pop("include_prompt", None)
    _write(folder / "1_Pooling", pooling | ({} if include is None else {"include_prompt": include}))
    if dense:
        modules.append(("2_Dense", "Dense"))
        width = hidden * len(modes)
        _write(folder / "2_Dense", {"in_features": width, "out_features": dense, "bias": True,
                                    "activation_function": "torch.nn.modules.activation.Tanh"})  # fmt: skip
        shapes = {"linear.weight": (dense, width), "linear.bias": (dense,)}
        made = {tensor: _values(f"dense/{tensor}", tensor, shape) for tensor, shape in shapes.items()}
        _write_safetensors(folder / "2_Dense" / "model.safetensors", made, "F32")
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
        (folder / modules[-1][0]).mkdir(exist_ok=True)
    listed = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
              for i, (path, kind) in enumerate(modules)]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(listed))
    if most is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": most, "do_lower_case": False}))
    if settings:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


SENTENCES: dict[str, dict[str, Any]] = {
    "mean": {"modes": ["mean"], "normalize": True, "most": 9},
    "cls": {"modes": ["cls"]},
    "max": {"modes": ["max"]},
    "last": {"modes": ["lasttoken"], "normalize": True},
    "two": {"modes": ["mean", "mean_sqrt_len_tokens"], "dense": 10},
    "weighted": {"modes": ["weightedmean"], "truncate_dim": 7},
    "prompt": {"modes": ["mean"], "include_prompt": False, "prompts": {"query": "who is it ? ", "passage": ""},
               "default_prompt_name": "query"},
}  # fmt: skip


def _write(folder: Path, values: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))


def _values(seed: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = _normal(seed, math.prod(shape)).reshape(shape)
    if "LayerNorm.weight" in name:
        return (1.0 + 0.2 * normal).astype(np.float32)
    if len(shape) == 1:
        return (0.3 * normal).astype(np.float32)
    gain = 6.0 if "classifier" in name or "qa_outputs" in name else 2.0 if "query" in name or "key" in name else 1.0
    gain = math.sqrt(shape[1]) if "embeddings" in name else gain
    return (normal * gain / math.sqrt(shape[1])).astype(np.float32)


def answers() -> dict[str, Any]:
    """What the pipelines answered."""
    return json.loads(ANSWERS.read_text(encoding="utf-8"))
