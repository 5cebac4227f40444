"""CTranslate2 as `bench.translate` runs it, with an interpreter that has ctranslate2, torch and transformers:

    python bench/peers/ct2_translate.py marian|t5 FOLDER THREADS

Makes a random model of the size of opus-mt (72M) or t5-small (60M) in FOLDER, a Hugging Face folder, and converts it to
int8.  Reads lines of JSON, {"sources": ids, "beams": n, "tokens": n}, and answers with the seconds of each.
"""

import json
import os
import sys
import tempfile
import time

import ctranslate2
import torch
from ctranslate2.converters.transformers import MarianMTLoader, T5Loader
from transformers import MarianConfig, MarianMTModel, T5Config, T5ForConditionalGeneration

SIZES = dict(d_model=512, vocab_size=58101, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=2048,
             decoder_ffn_dim=2048, encoder_attention_heads=8, decoder_attention_heads=8, pad_token_id=58100,
             decoder_start_token_id=58100, eos_token_id=0, scale_embedding=True, activation_function="swish",
             static_position_embeddings=True, max_position_embeddings=512)  # fmt: skip


def make(kind: str, folder: str) -> torch.nn.Module:
    """The random model, saved; its output has a bias against the end."""
    torch.manual_seed(1)
    if kind == "marian":
        model: torch.nn.Module = MarianMTModel(MarianConfig(**SIZES))
    else:
        model = T5ForConditionalGeneration(T5Config(decoder_start_token_id=0))  # the defaults are t5-small's
    model.eval().save_pretrained(folder)
    return model


def convert(kind: str, model: torch.nn.Module, folder: str) -> None:
    """The same as a CTranslate2 folder, with tokens that are called after their ids."""
    loader = MarianMTLoader() if kind == "marian" else T5Loader()
    if kind == "marian":
        loader._remove_pad_weights = lambda spec: None  # the vocabulary stays whole
    spec = loader.get_model_spec(model)
    tokens = [f"t{i}" for i in range(model.config.vocab_size)]
    start, end = model.config.decoder_start_token_id, model.config.eos_token_id
    tokens[end], spec.config.unk_token = "</s>", tokens[2]
    spec.config.bos_token, spec.config.eos_token = tokens[start], "</s>"
    spec.config.decoder_start_token, spec.config.add_source_eos = tokens[start], False
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.validate()
    spec.optimize(quantization="int8")
    spec.save(folder)


def main() -> None:
    """Answers until its input ends."""
    kind, folder, threads = sys.argv[1:]
    answer = os.fdopen(os.dup(1), "w")
    model = make(kind, folder)
    end = model.config.eos_token_id
    with tempfile.TemporaryDirectory() as place:
        os.mkdir(converted := os.path.join(place, "ct2"))
        convert(kind, model, converted)
        translator = ctranslate2.Translator(converted, "cpu", compute_type="int8", intra_threads=int(threads))
    answer.write(json.dumps({"version": ctranslate2.__version__}) + "\n")
    answer.flush()
    for line in sys.stdin:
        job = json.loads(line)
        words = [["</s>" if i == end else f"t{i}" for i in ids] for ids in job["sources"]]
        start = time.perf_counter()
        found = translator.translate_batch(words, beam_size=job["beams"], max_decoding_length=job["tokens"],
                                           min_decoding_length=job["tokens"])  # fmt: skip
        seconds = time.perf_counter() - start
        assert all(len(one.hypotheses[0]) == job["tokens"] for one in found)
        answer.write(json.dumps({"seconds": seconds, "first": found[0].hypotheses[0][:8]}) + "\n")
        answer.flush()


if __name__ == "__main__":
    main()
