"""`python tools/make_tokenizer_golden.py`: small SentencePiece models and what sentencepiece makes of texts.

Needs an environment that has sentencepiece. Writes tests/golden/sentencepiece.json: for each model its file (base64),
texts and their ids. The training text is made here; the models have every option that decides about ids.
"""

import base64
import io
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import sentencepiece

OUT = Path(__file__).resolve().parents[1] / "tests" / "golden" / "sentencepiece.json"
NOUNS = ["cat", "dog", "house", "river", "stone", "naïve", "café", "tree", "日本", "語", "год", "street", "window"]
VERBS = ["sees", "hears", "finds", "loves", "hides", "見る", "paints", "12", "345", "carries", "takes"]
# What a map of characters can do: one to one, to many, many to one, the longest first, to nothing.
RULES = {
    "Ａ": "A", "Ｂ": "B", "½": "1/2", "e\u0301": "é", "ﬁ": "fi", "…": "...", "\t": " ", "\n": " ", "\u3000": " ",
    "\u200b": "", "ab": "x", "abc": "yz", "≪": "<<",
}  # fmt: skip
COMMON = {"vocab_size": 330, "character_coverage": 0.99, "hard_vocab_limit": False, "num_threads": 1,
          "minloglevel": 2}  # fmt: skip
PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {**PLAIN, "model_type": "bpe", "byte_fallback": True, "split_digits": True, "vocab_size": 400},
    "gemma": {
        **PLAIN, "model_type": "bpe", "byte_fallback": True, "add_dummy_prefix": False, "vocab_size": 410,
        "user_defined_symbols": ["▁▁", "▁▁▁", "\n\n", "<tool>", "<to", "a|b", "caf"],
    },
    "bpe_rules": {"model_type": "bpe", "rules": True, "vocab_size": 150, "user_defined_symbols": ["<sep>", "c▁d"]},
    "t5": {
        "model_type": "unigram", "rules": True, "vocab_size": 120, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1,
    },
    "unigram_bytes": {
        "model_type": "unigram", "rules": True, "byte_fallback": True, "vocab_size": 370,
        "user_defined_symbols": ["<sep>", "<se"], "bos_piece": "<start>",
    },
}  # fmt: skip


def sentences() -> list[str]:
    rng = random.Random(1)
    return [
        f"The {rng.choice(NOUNS)} {rng.choice(VERBS)} the {rng.choice(NOUNS)}, and {rng.choice(NOUNS)}  is ½ {n}."
        for n in range(400)
    ]


def train(options: dict[str, Any]) -> bytes:
    options = {**COMMON, **options}
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as rules:
        if options.pop("rules", False):
            for old, new in RULES.items():
                rules.write("\t".join(" ".join(f"{ord(c):04X}" for c in text) for text in (old, new)) + "\n")
            rules.flush()
            options["normalization_rule_tsv"] = rules.name
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(sentences()), model_writer=model, **options)
    return model.getvalue()


def texts() -> list[str]:
    rng = random.Random(2)
    fixed = [
        "", " ", "   ", "the", " the", "the ", "  the  cat  ", "\n", "\n\n\n", "a\tb", "The cat sees 日本.", "▁the",
        "the▁cat", "<sep>", "a<sep>b <sep> c", "<tool><to<t", "a|b", "c d", "c  d", "café cafes", "½\u0308 Ａｂ",
        "abcabab", "e\u0301\u0301", "ﬁ…≪", "👩‍👩‍👧", "<0x41>?", "ünknöwn", "\u200b", "\u200bthe", "1234567", "<se<sep>",
    ]  # fmt: skip
    letters = [
        *"abcdetThe  \n\t.,", "▁", "the", " cat", "é", "e\u0301", "日", "本", "½", "…", "Ａ", "\u0301", "\u200b",
        "<sep>", "<to", "ﬁ", "👩", "\u3000", "ж", "12",
    ]  # fmt: skip
    mixed = ["".join(rng.choice(letters) for _ in range(rng.randrange(1, 25))) for _ in range(60)]
    planes = ((0x20, 0x7F), (0xA0, 0x800), (0x800, 0xD800), (0xE000, 0x110000))
    wild = ["".join(chr(rng.randrange(*rng.choice(planes))) for _ in range(rng.randrange(1, 15))) for _ in range(20)]
    return fixed + mixed + wild


def main() -> None:
    golden = {}
    for name, options in MODELS.items():
        model = train(options)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        ids = [processor.encode(text) for text in texts()]
        decoded = [processor.decode(one) for one in ids]
        golden[name] = {"model": base64.b64encode(model).decode(), "ids": ids, "decoded": decoded}
        print(name, len(model), "bytes,", processor.get_piece_size(), "pieces")
    OUT.write_text(json.dumps({"texts": texts(), "models": golden}, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
