"""Writes a model folder of g2p_en's GRU encoder-decoder, which writes the sounds of English words.

    python tools/import_g2p.py ../shared/data/models/g2p_en/checkpoint20.npz FOLDER

The source is the file checkpoint20.npz of https://github.com/Kyubyong/g2p (Apache-2.0).  Texts are single words; their
letters become small ones, and what is none of a to z is an unknown letter, as there.

    import lepton_edge

    with lepton_edge.load("FOLDER") as model:
        print(model.transcribe(["phoneme", "edge"]))
"""

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge.checkpoint.folder import new_folder
from lepton_edge.checkpoint.safetensors import Entry, write_safetensors

LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
# ARPAbet as the CMU dictionary writes it: vowels with a stress of 0, 1 or 2; the model also knows a UW without.
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = ("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V",
              "W", "Y", "Z", "ZH")  # fmt: skip
SOUNDS = ["<pad>", "<unk>", "<s>", "</s>",
          *sorted([*CONSONANTS, "UW", *(vowel + stress for vowel in VOWELS for stress in "012")])]  # fmt: skip
MOST = 20  # sounds that the authors' code writes at most
NAMES = {"emb": "embedding.weight", "w_ih": "rnn.weight_ih_l0", "w_hh": "rnn.weight_hh_l0", "b_ih": "rnn.bias_ih_l0",
         "b_hh": "rnn.bias_hh_l0"}  # fmt: skip


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors by PyTorch's names, float32.  SystemExit for a file that is not as described."""
    wanted = {f"{short}_{name}": f"{part}.{long}" for short, part in (("enc", "encoder"), ("dec", "decoder"))
              for name, long in NAMES.items()} | {"fc_w": "head.weight", "fc_b": "head.bias"}  # fmt: skip
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as cause:
        raise SystemExit(f"{path}: cannot be read as an npz file of arrays ({cause})") from cause
    if found.keys() != wanted.keys():
        raise SystemExit(f"{path}: holds {sorted(found)}; expected g2p_en's {sorted(wanted)}")
    units = found["enc_w_hh"].shape[-1] if found["enc_w_hh"].ndim else 0
    for name, values in found.items():
        shape = shape_of(name, units)
        if values.shape != shape or values.dtype.kind != "f":
            raise SystemExit(f"{path}: {name} is {values.dtype} {list(values.shape)}; expected floats {list(shape)}")
    return {wanted[name]: values.astype(np.float32) for name, values in found.items()}


def shape_of(name: str, units: int) -> tuple[int, ...]:
    """The shape of a tensor of g2p_en: embeddings and states have as many numbers."""
    part, kind = name.split("_", 1)
    if part == "fc":
        return (len(SOUNDS), units) if kind == "w" else (len(SOUNDS),)
    if kind == "emb":
        return len(LETTERS if part == "enc" else SOUNDS), units
    return (3 * units, units) if kind.startswith("w") else (3 * units,)


def config_of(units: int) -> dict[str, Any]:
    """config.json: see docs/recurrent.md."""
    return {
        "architectures": ["RnnForSeq2Seq"],
        "model_type": "rnn",
        "cell": "gru",
        "vocab_size": len(LETTERS),
        "embedding_size": units,
        "hidden_size": units,
        "num_layers": 1,
        "target_vocab_size": len(SOUNDS),
        "decoder_start_token_id": SOUNDS.index("<s>"),
        "eos_token_id": SOUNDS.index("</s>"),
        "max_new_tokens": MOST,
        "id2label": {str(i): sound for i, sound in enumerate(SOUNDS)},
    }


def tokenizer() -> dict[str, Any]:
    """tokenizer.json: a token for each letter, and </s> behind the word."""
    end = LETTERS.index("</s>")
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    text, special = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": end, "content": "</s>", **plain}],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text, special],
            "pair": [text, special, {"Sequence": {"id": "B", "type_id": 0}}, special],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [end], "tokens": ["</s>"]}},
        },
        "decoder": None,
        "model": {"type": "BPE", "vocab": {letter: i for i, letter in enumerate(LETTERS)}, "merges": [],
                  "unk_token": "<unk>", "fuse_unk": False},
    }  # fmt: skip


def convert(source: Path, target: Path) -> None:
    """Writes the folder `target`, which must not exist yet."""
    tensors = read(source)
    files = {"config.json": config_of(tensors["encoder.rnn.weight_hh_l0"].shape[1]), "tokenizer.json": tokenizer()}
    entries = [Entry.of_floats(name, values) for name, values in tensors.items()]
    with new_folder(target) as folder:
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
        write_safetensors(folder / "model.safetensors", entries, {"format": "pt"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    convert(arguments.source, arguments.target)
