"""Tokenizers of every kind, small enough to be written here; each function writes a tokenizer.json and nothing else."""

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


def _save(tokenizer: tokenizers.Tokenizer, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
