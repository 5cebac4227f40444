"""Writes tests/golden/*.npz: what transformers computes for the models of tests/golden/recipe.py.

Run it with an interpreter that has torch, transformers 5.x, and peft for the adapters (of lepton_edge, only the specs
are used):

    python tools/make_golden.py [--trained ../shared/data/models/tinystories656k] [NAME ...]

NAME.npz holds logits float32 [T, V], the noise (relative difference of transformers' float32 and float64 runs) and
the checksum of the recipe; rope.npz the inverse frequencies and attention factor of each rope setting;
tinystories656k.npz some logits and a greedy continuation of the trained model (numbers derived from it only).
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from golden import adapters, encoders, families, seq2seq  # noqa: E402
from golden import recipe as recipes  # noqa: E402
from golden.ropes import ROPES, Rope  # noqa: E402

PROMPT = (
    "Once upon a time, there was a small dog named Max. Max liked to run and jump all day long. "
    "One sunny morning, Max met a little red bird who could not fly, so he wanted to"
)
GREEDY_TOKENS = 200


def load_model(
    folder: Path, dtype: torch.dtype, attention: str = "eager", auto: type = AutoModelForCausalLM
) -> torch.nn.Module:
    """The model in a folder, with eager attention or another; refuses a folder that lacks tensors or has too many."""
    model, info = auto.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, experts_implementation="eager",
        output_loading_info=True, local_files_only=True
    )
    computed = "coder.embed_positions.weight"  # sinusoids of Pegasus and M2M100
    wrong = {kind: [name for name in names if computed not in name] for kind, names in info.items() if names}
    wrong = {kind: names for kind, names in wrong.items() if names}
    if wrong:
        raise SystemExit(f"{folder}: transformers does not agree with the tensors: {wrong}")
    return model.eval()


@torch.no_grad()
def logits_at_once(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    """float64 [T, V], from one pass without a cache."""
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    return model(ids, use_cache=False).logits[0].double().numpy()


@torch.no_grad()
def logits_by_steps(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    """float64 [T, V], one token at a time with a cache."""
    rows, cache = [], None
    for token in tokens:
        out = model(torch.tensor([[int(token)]]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        rows.append(out.logits[0, 0].double().numpy())
    return np.stack(rows)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """||a - b|| / ||b||."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def make_model(recipe: recipes.Recipe) -> None:
    """Stores NAME.npz for one recipe."""
    run = logits_by_steps if recipe.steps else logits_at_once
    tokens = recipes.token_ids(recipe)
    with tempfile.TemporaryDirectory() as folder:
        path = recipes.write_folder(recipe.name, Path(folder) / recipe.name)
        single, double = (run(load_model(path, dtype), tokens) for dtype in (torch.float32, torch.float64))
    noise = relative(single, double)
    print(f"{recipe.name:16} {single.shape} rms {np.sqrt((single**2).mean()):.3f} noise {noise:.1e}")
    np.savez_compressed(
        recipes.GOLDEN / f"{recipe.name}.npz",
        logits=single.astype(np.float32),
        noise=np.float64(noise),
        checksum=np.uint32(recipes.checksum(recipe)),
    )


def make_families() -> None:
    """Stores families.npz: for each family of tests/golden/families.py its logits, noise and checksum."""
    stored = {}
    for family in families.FAMILIES:
        run, tokens = logits_by_steps if family.steps else logits_at_once, families.token_ids(family)
        with tempfile.TemporaryDirectory() as folder:
            path = families.write_folder(family, Path(folder) / family.name, transformers=True)
            how = "sdpa" if family.sdpa else "eager"
            single, double = (run(load_model(path, dtype, how), tokens) for dtype in (torch.float32, torch.float64))
        noise = relative(single, double)
        print(f"{family.name:18} {single.shape} rms {np.sqrt((single**2).mean()):.3f} noise {noise:.1e}")
        stored[family.name] = single.astype(np.float32)
        stored[f"{family.name} about"] = np.array([noise, families.checksum(family)])
    np.savez_compressed(recipes.GOLDEN / "families.npz", **stored)


@torch.no_grad()
def make_seq2seq() -> None:
    """Stores seq2seq.npz: for each model of tests/golden/seq2seq.py its logits, noise, checksum, and generated ids."""
    stored = {}
    for pair in seq2seq.PAIRS:
        with tempfile.TemporaryDirectory() as folder:
            path = seq2seq.write_folder(pair, Path(folder) / pair.name)
            single, double = (
                load_model(path, dtype, auto=AutoModelForSeq2SeqLM) for dtype in (torch.float32, torch.float64)
            )
        given = [torch.from_numpy(ids.astype(np.int64))[None] for ids in (*seq2seq.sources(pair), seq2seq.target(pair))]
        runs = [
            model(input_ids=given[0], decoder_input_ids=given[-1]).logits[0].double().numpy()
            for model in (single, double)
        ]
        stored[pair.name] = runs[0].astype(np.float32)
        stored[f"{pair.name} about"] = np.array([relative(*runs), seq2seq.checksum(pair)])
        print(f"{pair.name:18} {runs[0].shape} rms {np.sqrt((runs[0]**2).mean()):.3f} noise {relative(*runs):.1e}")
        for name, request in seq2seq.REQUESTS.items():
            rows = [single.generate(ids, do_sample=False, **request)[0, 1:].tolist() for ids in given[:-1]]
            print(f"    {name}: {rows}")
            padded = [row + [-1] * (max(map(len, rows)) - len(row)) for row in rows]
            stored[f"{pair.name} {name}"] = np.array(padded, np.int16)
    np.savez_compressed(recipes.GOLDEN / "seq2seq.npz", **stored)


def load_encoder(encoder: encoders.Encoder, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """An encoder; refuses a folder that lacks tensors, but for a pooler that it does not read, or has too many."""
    model, info = getattr(transformers, encoder.architecture).from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True, local_files_only=True
    )
    wrong = {kind: [name for name in names if "pooler" not in str(name)] for kind, names in info.items()}
    if any(wrong.values()) or (info["missing_keys"] and not encoder.architecture.endswith("Model")):
        raise SystemExit(f"{encoder.name}: transformers does not agree with the tensors: {info}")
    return model.eval()


@torch.no_grad()
def outputs_of(model: torch.nn.Module, encoder: encoders.Encoder) -> np.ndarray:
    """What an encoder gives of its sequences, one after the other: float64 [rows, N]."""
    rows, kinds = [], encoders.segments(encoder)
    for i, tokens in enumerate(encoders.sequences(encoder)):
        rest = {} if kinds is None else {"token_type_ids": torch.from_numpy(kinds[i])[None]}
        out = model(torch.from_numpy(tokens.astype(np.int64))[None], **rest)
        if "start_logits" in out:
            rows.append(torch.stack([out.start_logits[0], out.end_logits[0]], dim=1))
        else:
            rows.append(out.logits if "logits" in out and not encoder.each else out[0][0])
    return torch.cat(rows).double().numpy()


def make_encoders() -> None:
    """Stores encoders.npz: for each encoder of tests/golden/encoders.py its outputs, noise and checksum."""
    stored = {}
    for encoder in encoders.ENCODERS:
        with tempfile.TemporaryDirectory() as folder:
            path = encoders.write_folder(encoder, Path(folder) / encoder.name)
            single, double = (outputs_of(load_encoder(encoder, path, dtype), encoder)
                              for dtype in (torch.float32, torch.float64))  # fmt: skip
        noise = relative(single, double)
        print(f"{encoder.name:24} {single.shape} rms {np.sqrt((single**2).mean()):.3f} noise {noise:.1e}")
        stored[encoder.name] = single.astype(np.float32)
        stored[f"{encoder.name} about"] = np.array([noise, encoders.checksum(encoder)])
    far = torch.arange(-1100, 1101)
    for buckets, reach in encoders.BUCKETS:
        rows = make_log_bucket_position(far, buckets, reach).long() + buckets
        stored[f"buckets {buckets} {reach}"] = rows.clamp(0, 2 * buckets - 1).numpy().astype(np.int16)
    for buckets in (32, 64):
        rows = MPNetEncoder.relative_position_bucket(far, buckets)
        stored[f"buckets {buckets}"] = rows.numpy().astype(np.int16)
    np.savez_compressed(recipes.GOLDEN / "encoders.npz", **stored)


def load_adapted(case: adapters.Case, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """A model with PEFT's adapter; refuses a folder that holds other tensors than PEFT would save."""
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict

    base = load_model(adapters.write_base(case, folder / "base"), dtype)
    path = adapters.write_adapter(case, folder / "adapter")
    model = PeftModel.from_pretrained(base, path, autocast_adapter_dtype=False).to(dtype).eval()
    wanted, found = get_peft_model_state_dict(model), adapters.tensors(case)
    if wrong := wanted.keys() ^ found.keys():
        raise SystemExit(f"{case.name}: PEFT does not agree with the tensors: {sorted(wrong)}")
    for name, values in found.items():
        if not np.array_equal(wanted[name].float().numpy(), values):
            raise SystemExit(f"{case.name}: {name} has not arrived in PEFT's model")
    return model


def make_adapters() -> None:
    """Stores adapters.npz: for each adapter of tests/golden/adapters.py its logits, noise and checksum."""
    stored = {}
    for case in adapters.CASES:
        runs = []
        for dtype in (torch.float32, torch.float64):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(logits_at_once(load_adapted(case, Path(folder), dtype), case.tokens))
        noise = relative(*runs)
        print(f"{case.name:18} {runs[0].shape} rms {np.sqrt((runs[0]**2).mean()):.3f} noise {noise:.1e}")
        stored[case.name] = runs[0].astype(np.float32)
        stored[f"{case.name} about"] = np.array([noise, adapters.checksum(case)])
    np.savez_compressed(recipes.GOLDEN / "adapters.npz", **stored)


def make_ropes() -> None:
    """Stores rope.npz: for setting i, `frequencies_i` float32 [dim/2] and `factor_i`."""
    stored = {}
    for index, rope in enumerate(ROPES):
        frequencies, factor = rope_of(rope)
        stored[f"frequencies_{index}"] = frequencies.numpy()
        stored[f"factor_{index}"] = np.float64(factor)
    np.savez_compressed(recipes.GOLDEN / "rope.npz", **stored)
    print(f"rope: {len(ROPES)} settings")


def rope_of(rope: Rope) -> tuple[torch.Tensor, float]:
    """transformers' inverse frequencies and attention factor for one setting."""
    config = LlamaConfig(
        hidden_size=rope.dim * 4,
        num_attention_heads=4,
        max_position_embeddings=rope.max_positions,
        rope_parameters=dict(rope.parameters),
    )
    return ROPE_INIT_FUNCTIONS[rope.parameters["rope_type"]](config, "cpu", seq_len=rope.length)


@torch.no_grad()
def make_trained(folder: Path) -> None:
    """Stores NAME.npz for a trained model: prompt ids, logits of some of its positions, greedy ids, smallest margin."""
    prompt = np.array(AutoTokenizer.from_pretrained(folder)(PROMPT)["input_ids"], np.int32)
    single, double = (load_model(folder, dtype) for dtype in (torch.float32, torch.float64))
    logits, exact = logits_at_once(single, prompt), logits_at_once(double, prompt)
    positions = np.array([0, 1, len(prompt) // 2, len(prompt) - 1], np.int32)
    greedy, margins, cache = [], [], None
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    for _ in range(GREEDY_TOKENS):
        out = single(ids, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        best, second = out.logits[0, -1].topk(2).values.tolist()
        margins.append(best - second)
        greedy.append(int(out.logits[0, -1].argmax()))
        ids = torch.tensor([[greedy[-1]]])
    noise = relative(logits, exact)
    print(f"{folder.name}: {len(prompt)} prompt tokens, noise {noise:.1e}, smallest margin {min(margins):.4f}")
    np.savez_compressed(
        recipes.GOLDEN / f"{folder.name}.npz",
        prompt=prompt,
        positions=positions,
        logits=logits[positions].astype(np.float32),
        greedy=np.array(greedy, np.int32),
        noise=np.float64(noise),
        margin=np.float64(min(margins)),
    )


def main() -> None:
    """Makes the models that are named, or everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trained", type=Path, default=ROOT.parent / "shared/data/models/tinystories656k")
    together = ("adapters", "encoders", "families", "seq2seq")
    parser.add_argument("names", nargs="*", choices=[[], *together, *recipes.BY_NAME], metavar="NAME")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    if "families" in arguments.names:
        make_families()
    if "adapters" in arguments.names:
        make_adapters()
    if "encoders" in arguments.names:
        make_encoders()
    if "seq2seq" in arguments.names:
        make_seq2seq()
    for name in arguments.names or recipes.BY_NAME:
        if name not in together:
            make_model(recipes.BY_NAME[name])
    if not arguments.names:
        make_families()
        make_encoders()
        make_adapters()
        make_seq2seq()
        make_ropes()
        make_trained(arguments.trained)


if __name__ == "__main__":
    main()
