"""Tokenizers of every kind, small enough to be written here.

Each function of KINDS writes a tokenizer.json and nothing else, each of SOURCES the files that one can be made from.
"""

import base64
import json
import struct
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["the", "cat", "sat", "é", "日本", "語", ".", ",", "n't", "do", "not"]


def byte_level(folder: Path) -> Path:
    """GPT-2's kind: 256 bytes, a few merges, `<s>` = 0 before each text, `</s>` = 1, an added token with a space."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("Ã", "©")]
    strings = ["<s>", "</s>", *alphabet, *(left + right for left, right in merges)]
    tokenizer = tokenizers.Tokenizer(models.BPE({string: i for i, string in enumerate(strings)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 0)])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("<a b>", normalized=False)])
    return _save(tokenizer, folder)


def byte_fallback(folder: Path, strip: bool = True) -> Path:
    """Llama 2's kind (with `strip`) and Gemma's: `▁` for spaces, `<0x0A>` for what the vocabulary lacks, `<s>` = 1."""
    strings = ["<unk>", "<s>", "</s>", *BYTES, "▁", "▁▁", *"thecasé", "th", "the", "▁the", "ca", "cat", "▁cat"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("c", "a"), ("ca", "t"), ("▁", "cat"), ("▁", "▁")]
    strings += ["t"] if "t" not in strings else []
    strings = list(dict.fromkeys(strings))
    model = models.BPE(
        {string: i for i, string in enumerate(strings)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = tokenizers.Tokenizer(model)
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if strip else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return _save(tokenizer, folder)


def gemma(folder: Path) -> Path:
    """`byte_fallback` without the leading space that decoding strips."""
    return byte_fallback(folder, strip=False)


def word_piece(folder: Path) -> Path:
    """BERT's kind."""
    strings = ["[UNK]", "[CLS]", "[SEP]", *WORDS, *("##" + word for word in WORDS), "'", "s", "m", "##s"]
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece({string: i for i, string in enumerate(dict.fromkeys(strings))}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    return _save(tokenizer, folder)


def metaspace(folder: Path) -> Path:
    """T5's kind."""
    strings = ["<unk>", "▁", "▁▁", *WORDS, *("▁" + word for word in WORDS)]
    tokenizer = tokenizers.Tokenizer(models.Unigram([(string, -float(i)) for i, string in enumerate(strings)], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _save(tokenizer, folder)


def no_decoder(folder: Path) -> Path:
    """Words, and nothing that says how they are joined."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="the"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _save(tokenizer, folder)


def end_of_word(folder: Path) -> Path:
    """CLIP's kind, whose last token decodes differently: its text is known at the end only."""
    strings = ["<unk>", *WORDS, *(word + "</w>" for word in WORDS)]
    tokenizer = tokenizers.Tokenizer(models.WordLevel({string: i for i, string in enumerate(strings)}, "<unk>"))
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return _save(tokenizer, folder)


def mixed(folder: Path) -> Path:
    """Steps in an order that no family uses: strip each token, then bytes, then joined text, then replace."""
    tokenizer = tokenizers.Tokenizer(
        models.WordLevel(
            {word: i for i, word in enumerate([*WORDS, *BYTES, "▁the", "▁▁", "__", "<0x+F>", "_a"])}, "the"
        )
    )
    steps = [decoders.Strip("▁", 1, 0), decoders.Replace("_", "."), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Replace("e", "€€"), decoders.Strip("€", 3, 0)])
    return _save(tokenizer, folder)


KINDS = {
    kind.__name__: kind
    for kind in (byte_level, byte_fallback, gemma, word_piece, metaspace, no_decoder, end_of_word, mixed)
}


def bytes_and_merges(folder: Path) -> Path:
    """vocab.json and merges.txt of `byte_level`, which has the two ends and an added token with a space."""
    data = json.loads((byte_level(folder) / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").unlink()
    merges = "".join(" ".join(pair) + "\n" for pair in data["model"]["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8", newline="")
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    return _write(folder, {"vocab.json": data["model"]["vocab"], "tokenizer_config.json": config,
                           "added_tokens.json": {"<a b>": len(data["model"]["vocab"])}})  # fmt: skip


def words(folder: Path) -> Path:
    """BERT's vocab.txt."""
    strings = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *("##" + word for word in WORDS), "##s", "e"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(string + "\n" for string in strings), encoding="utf-8", newline="")
    return _write(folder, {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}})


def ranks(folder: Path) -> Path:
    """tiktoken's tokenizer.model as Llama 3 has it, with two added tokens."""
    longer = [text.encode() for text in ("th", "the", " the", "at", "cat", "é")]
    tokens = [*(bytes([byte]) for byte in range(256)), *longer]
    folder.mkdir(parents=True, exist_ok=True)
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
    (folder / "tokenizer.model").write_bytes(b"".join(lines))
    added = {str(len(tokens) + i): {"content": content, "special": True, "normalized": False}
             for i, content in enumerate(("<|begin_of_text|>", "<|end_of_text|>"))}  # fmt: skip
    settings = {"added_tokens_decoder": added}
    return _write(folder, {"config.json": {"model_type": "llama"}, "tokenizer_config.json": settings})


def pieces_bpe(folder: Path, **settings: object) -> Path:
    """SentencePiece, BPE with byte fallback: Llama's tokenizer.model."""
    strings = ["▁", "t", "h", "e", "c", "a", "é", "th", "the", "▁the", "at", "cat", "▁▁", "日本"]
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((byte, 0.0, 6) for byte in BYTES)]
    pieces += [(string, -float(i), 1) for i, string in enumerate(strings)]
    return sentence_piece(folder, pieces, {3: 2, 35: 1}, {4: 0}, tokenizer_class="LlamaTokenizer", **settings)


def pieces_unigram(folder: Path, **settings: object) -> Path:
    """SentencePiece, unigram: T5's tokenizer.model, with four extra ids."""
    pieces = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2), ("<sep>", 0.0, 4)]
    pieces += [("▁", -2.0, 1), ("▁▁", -9.0, 1)]
    pieces += [(word, -3.0 - i, 1) for i, word in enumerate(WORDS)]
    pieces += [("▁" + word, -2.5 - i, 1) for i, word in enumerate(WORDS)]
    return sentence_piece(folder, pieces, {3: 1}, {}, tokenizer_class="T5Tokenizer", extra_ids=4, **settings)


def sentence_piece(folder: Path, pieces: list, trainer: dict, normalizer: dict, **settings: object) -> Path:
    """Write a tokenizer.model: pieces (string, score, type), fields of trainer_spec and normalizer_spec by number."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [(1, message((1, string), (2, score), (3, kind))) for string, score, kind in pieces]
    parts += [(2, message(*trainer.items())), (3, message(*normalizer.items()))]
    (folder / "tokenizer.model").write_bytes(message(*parts))
    return _write(folder, {"tokenizer_config.json": settings})


def message(*fields: tuple[int, object]) -> bytes:
    """A protobuf message of ints (varints), floats (four bytes), and strings or bytes."""
    parts = []
    for number, value in fields:
        if isinstance(value, float):
            parts.append(varint(number << 3 | 5) + struct.pack("<f", value))
        elif isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        else:
            data = value.encode() if isinstance(value, str) else bytes(value)  # type: ignore[call-overload]
            parts.append(varint(number << 3 | 2) + varint(len(data)) + data)
    return b"".join(parts)


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    low, high = value & 127, value >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])


SOURCES = {kind.__name__: kind for kind in (bytes_and_merges, words, ranks, pieces_bpe, pieces_unigram)}


def without_json(source: Path, folder: Path, files: dict[str, object]) -> Path:
    """A copy of a real folder's tokenizer without tokenizer.json, and `files` beside it."""
    for name in ("tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt", "tokenizer_config.json",
                 "special_tokens_map.json"):  # fmt: skip
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    return _write(folder, files)


def _write(folder: Path, files: dict[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


def _save(tokenizer: tokenizers.Tokenizer, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
