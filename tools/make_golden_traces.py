"""Writes tests/golden/traces.npz: hidden states and attentions of transformers, shortened by tests/golden/traces.py.

Run it with an interpreter that has torch and transformers 5.x, after make_golden.py.
"""

import tempfile
from pathlib import Path
from typing import Any

import make_golden
import numpy as np
import torch
import transformers
from golden import encoders, families, recipe, seq2seq, traces
from transformers import AutoModelForSeq2SeqLM

ASKED = dict(output_hidden_states=True, output_attentions=True)

Stored = dict[str, np.ndarray]


def first(found: Any) -> list[np.ndarray]:
    """Of a batch of one, without the layers that have nothing."""
    return [values[0].double().numpy() for values in found or () if values is not None]


def keep(stored: Stored, name: str, states: list[np.ndarray], attentions: list[np.ndarray]) -> None:
    """Store what a model made.  RWKV calls something else attention."""
    attentions = [shares for shares in attentions if shares.ndim == 3]
    if states:
        stored[f"{name} states"] = traces.states(states).astype(np.float32)
    if attentions:
        stored[f"{name} attentions"] = traces.attentions(attentions).astype(np.float32)
    print(f"{name}: {len(states)} states, {len(attentions)} attentions")


def encoder(stored: Stored, model: encoders.Encoder, folder: Path) -> None:
    """Of an encoder's last sequence."""
    loaded = make_golden.load_encoder(model, encoders.write_folder(model, folder), torch.float32)
    ids, kinds = encoders.sequences(model)[-1], encoders.segments(model)
    rest = {} if kinds is None else {"token_type_ids": torch.from_numpy(kinds[-1])[None]}
    out = loaded(torch.from_numpy(ids.astype(np.int64))[None], **rest, **ASKED)
    keep(stored, model.name, first(out.hidden_states), first(out.attentions))


def decoder(stored: Stored, model: Any, folder: Path) -> None:
    """Of all tokens at once, or one after the other where that is what the golden logits are of."""
    if isinstance(model, families.Family):
        tokens, path = families.token_ids(model), families.write_folder(model, folder, transformers=True)
    else:
        tokens, path = recipe.token_ids(model), recipe.write_folder(model.name, folder)
    sdpa = getattr(model, "sdpa", False)  # asked for attentions, transformers would take the eager one after all
    loaded = make_golden.load_model(path, torch.float32, "sdpa" if sdpa else "eager")
    asked = {**ASKED, "output_attentions": not sdpa}
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    if not model.steps:
        out = loaded(ids, use_cache=False, **asked)
        keep(stored, model.name, first(out.hidden_states), first(getattr(out, "attentions", None)))
        return
    states, attentions, cache = [], [], None
    for i in range(len(tokens)):
        out = loaded(ids[:, i : i + 1], past_key_values=cache, use_cache=True, **asked)
        cache = out.past_key_values
        states.append(first(out.hidden_states))
        rows = first(getattr(out, "attentions", None))
        attentions.append([np.pad(row, ((0, 0), (0, 0), (0, len(tokens) - row.shape[2]))) for row in rows])
    together = [[np.concatenate(parts, axis=-2) for parts in zip(*rows, strict=True)] for rows in (states, attentions)]
    keep(stored, model.name, *together)


def pair(stored: Stored, model: seq2seq.Pair, folder: Path) -> None:
    """Of the first source and the target."""
    loaded = make_golden.load_model(seq2seq.write_folder(model, folder), torch.float32, auto=AutoModelForSeq2SeqLM)
    source, target = (torch.from_numpy(ids.astype(np.int64))[None]
                      for ids in (seq2seq.sources(model)[0], seq2seq.target(model)))  # fmt: skip
    out = loaded(input_ids=source, decoder_input_ids=target, **ASKED)
    keep(stored, model.name, first(out.decoder_hidden_states), first(out.decoder_attentions))
    keep(stored, f"{model.name} encoder", first(out.encoder_hidden_states), first(out.encoder_attentions))
    keep(stored, f"{model.name} cross", [], first(out.cross_attentions))


@torch.no_grad()
def main() -> None:
    """Makes everything."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    stored: Stored = {}
    for make, models in ((encoder, traces.BODIES), (decoder, traces.DECODERS), (pair, traces.PAIRS)):
        for model in models:
            with tempfile.TemporaryDirectory() as folder:
                make(stored, model, Path(folder) / model.name)
    np.savez_compressed(recipe.GOLDEN / "traces.npz", **stored)


if __name__ == "__main__":
    main()
