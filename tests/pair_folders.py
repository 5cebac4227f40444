"""Folders of the small encoder-decoders of `golden.seq2seq`, with a tokenizer whose tokens are words."""

import json

from golden import seq2seq

EN, DE = 57, 58


def folder_of(path, name: str, languages: tuple[str, str] = ("w57", "w58"), template: bool = False, **generation):
    """The model with a tokenizer whose tokens are words; template: the first language is put before a text."""
    seq2seq.write_folder(seq2seq.BY_NAME[name], path)
    words = ["<s>", "<pad>", "</s>", *(f"w{i}" for i in range(3, 57)), *languages]
    special = {i: words[i] for i in (0, 1, 2, EN, DE)}
    front = [{"SpecialToken": {"id": words[EN], "type_id": 0}}] if template else []
    single = [*front, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    names = [words[EN], "</s>"] if template else ["</s>"]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "decoder": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "added_tokens": [{"id": i, "content": word, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": i < 3} for i, word in special.items()],
        "post_processor": {
            "type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {word: {"id": word, "ids": [words.index(word)], "tokens": [word]} for word in names},
        },
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<s>"},
    }  # fmt: skip
    (path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "max_length": 9, **generation}))
    return path
