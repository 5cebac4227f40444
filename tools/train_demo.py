"""Train the `stories` model: a small Llama on TinyStories, with a byte-level BPE of its own.

    python tools/train_demo.py OUT [--data ../shared/data/text/tinystories] [--minutes 100] [--until 09:25]

Needs torch, tokenizers, safetensors. OUT becomes a Hugging Face folder (LlamaForCausalLM) with a model card. Progress
through the schedule is the larger of the CPU time used and the wall time gone, each as a part of what it may have: a
pause neither ends the run early nor leaves the learning rate high at the deadline.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from story_model import BOS, EOS, Shape, build_model, sample, write_card, write_folder
from story_text import load_stories

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

PROMPT = "Once upon a time"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Recipe:
    """How the model is trained."""

    batch_tokens: int = 3072  # of each thread
    lr: float = 3e-3
    weight_decay: float = 0.1
    dropout: float = 0.1
    warmup: float = 0.02
    seed: int = 1


@dataclass(frozen=True)
class Corpus:
    """Token ids of the stories (each BOS … EOS, cut at the context) and the characters of the held-out ones."""

    train: list[list[int]]
    held: list[list[int]]
    held_chars: int
    tokenizer: Tokenizer


def train_tokenizer(stories: list[str], vocab: int) -> Tokenizer:
    """A byte-level BPE; encoding puts BOS first. Ids 0 and 1 are BOS and EOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories, trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
    )
    return tokenizer


def prepare(data: Path, shape: Shape, seed: int) -> Corpus:
    """Reads *.txt of `data`, holds out a fiftieth of the stories, trains the tokenizer on the rest."""
    texts = [p.read_text(encoding="utf-8") for p in sorted(data.glob("*.txt")) if p.name != "SOURCE.txt"]
    stories = load_stories(texts)
    random.Random(seed).shuffle(stories)
    cut = len(stories) // 50
    tokenizer = train_tokenizer(stories[cut:], shape.vocab)
    eos = tokenizer.token_to_id(EOS)
    ids = [[*e.ids, eos] for e in tokenizer.encode_batch(stories)]
    kept = [i for i in range(cut) if len(ids[i]) <= shape.context + 1]
    return Corpus(
        train=[x[: shape.context + 1] for x in ids[cut:]],
        held=[ids[i] for i in kept],
        held_chars=sum(len(stories[i]) for i in kept),
        tokenizer=tokenizer,
    )


def batches(stories: list[list[int]], tokens: int, rng: random.Random) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch of (inputs, targets) int64 [B, T], stories of like length together; targets are -100 where padded."""
    import torch

    order = sorted(stories, key=lambda s: len(s) + rng.uniform(-8, 8))
    groups: list[list[list[int]]] = [[]]
    longest = 0
    for story in order:
        longest = max(longest, len(story))
        if longest * (len(groups[-1]) + 1) > tokens:
            groups.append([])
            longest = len(story)
        groups[-1].append(story)
    rng.shuffle(groups)
    for group in groups:
        length = -(-max(map(len, group)) // 16) * 16
        padded = torch.tensor([s + [-100] * (length + 1 - len(s)) for s in group])
        yield padded[:, :-1].clamp(min=0), padded[:, 1:]


def make_optimizers(model: torch.nn.Module, recipe: Recipe, shares: int) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024) for the matrices of the layers, in `shares` parts; AdamW for the embedding and the norms."""
    import torch

    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n]
    embedding = [p for n, p in named if "embed" in n]
    norms = [p for _, p in named if p.ndim == 1]
    muon = [
        torch.optim.Muon(
            matrices[i::shares], lr=recipe.lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        for i in range(shares)
    ]
    groups = [{"params": embedding, "weight_decay": recipe.weight_decay}, {"params": norms, "weight_decay": 0.0}]
    return [*muon, torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))]


class Workers:
    """Copies of one model that share its weights; each works on a batch of its own, in a thread with one core.

    One thread per batch needs one meeting per step, which on a busy machine costs far less than one per matrix.
    """

    def __init__(self, model: torch.nn.Module, recipe: Recipe, threads: int) -> None:
        import torch

        torch.set_num_threads(1)
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        self.models = [model, *(copy.deepcopy(model) for _ in range(threads - 1))]
        for other in self.models[1:]:
            for p, q in zip(model.parameters(), other.parameters(), strict=True):
                q.data = p.data
        self.optimizers = make_optimizers(model, recipe, threads)

    def step(self, group: list[tuple[torch.Tensor, torch.Tensor]], lr: float) -> tuple[float, int]:
        """One update from the batches of `group` (at most one per thread): the summed loss, the tokens."""
        import torch

        count = sum(int((targets >= 0).sum()) for _, targets in group)

        def gradients(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
            loss = model(*batch)
            (loss / count).backward()
            return loss.item()

        total = sum(self.pool.map(gradients, self.models, group))
        main = list(self.models[0].parameters())
        for other in self.models[1 : len(group)]:
            for p, q in zip(main, other.parameters(), strict=True):
                p.grad.add_(q.grad)
                q.grad = None
        torch.nn.utils.clip_grad_norm_(main, 1.0)

        def update(optimizer: torch.optim.Optimizer) -> None:
            for parameters in optimizer.param_groups:
                parameters["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        list(self.pool.map(update, self.optimizers))
        return total, count


def held_loss(model: torch.nn.Module, corpus: Corpus) -> tuple[float, float]:
    """Mean loss in nats on the held-out stories (EOS included): per token, per character of text."""
    import torch

    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for inputs, targets in batches(corpus.held, 8192, random.Random(0)):
            total += model(inputs, targets).item()
            count += int((targets >= 0).sum())
    model.train()
    return total / count, total / corpus.held_chars


class Clock:
    """Progress 0..1 through the budget: CPU minutes of this process, or the wall time until the deadline."""

    def __init__(self, minutes: float, until: str | None) -> None:
        self.cpu, self.start = minutes * 60, time.time()
        self.used = time.process_time()
        self.wall = math.inf
        if until:
            hour, minute = map(int, until.split(":"))
            self.wall = datetime.now().replace(hour=hour, minute=minute, second=0).timestamp() - self.start

    def progress(self) -> float:
        return max((time.process_time() - self.used) / self.cpu, (time.time() - self.start) / self.wall)

    def speed(self, tokens: int) -> str:
        """Tokens per second of CPU time and of wall time."""
        cpu, wall = time.process_time() - self.used, time.time() - self.start
        return f"{tokens / cpu:.0f} tokens/CPU s, {tokens / wall:.0f} tokens/s"


def rate(progress: float, warmup: float) -> float:
    """The learning rate's factor: linear warm-up, then a cosine to 0.01."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


def train(corpus: Corpus, shape: Shape, recipe: Recipe, clock: Clock, out: Path, threads: int) -> None:
    """Trains until the clock is at 1; OUT holds the best weights so far at any time."""
    import torch

    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    model = build_model(shape, recipe.dropout)
    workers = Workers(model, recipe, threads)
    run, best, milestone = Run(), math.inf, 1
    while clock.progress() < 1:
        run.epochs += 1
        epoch = list(batches(corpus.train, recipe.batch_tokens, rng))
        for first in range(0, len(epoch), threads):
            progress = clock.progress()
            if progress >= 1:
                break
            loss, count = workers.step(epoch[first : first + threads], recipe.lr * rate(progress, recipe.warmup))
            run.add(loss, count)
            if run.steps % 20 == 0:
                print(f"{datetime.now():%H:%M:%S} {progress:.3f} {run} {clock.speed(run.tokens)}", flush=True)
            if progress * 12 >= milestone:
                milestone += 1
                best = keep_best(model, corpus, shape, recipe, out, best, run)
    keep_best(model, corpus, shape, recipe, out, best, run)


@dataclass
class Run:
    """What a training run has done so far; `loss` is a running mean over about the last hundred steps."""

    steps: int = 0
    epochs: int = 0
    tokens: int = 0
    loss: float = 0.0

    def add(self, loss: float, count: int) -> None:
        self.steps += 1
        self.tokens += count
        self.loss += (loss / count - self.loss) * max(0.01, 1 / self.steps)

    def __str__(self) -> str:
        return f"step {self.steps} epoch {self.epochs} tokens {self.tokens} loss {self.loss:.4f}"


def keep_best(
    model: torch.nn.Module, corpus: Corpus, shape: Shape, recipe: Recipe, out: Path, best: float, run: Run,
) -> float:  # fmt: skip
    """Measures the held-out loss and writes OUT when it is the best so far; the best held-out loss."""
    per_token, per_char = held_loss(model, corpus)
    print(f"{datetime.now():%H:%M:%S} {run} held-out {per_token:.4f} per token, {per_char:.4f} per char", flush=True)
    if per_token < best:
        facts = {
            "run": asdict(run),
            "held_loss_per_token": per_token, "held_loss_per_char": per_char, "held_stories": len(corpus.held),
            "train_stories": len(corpus.train), "train_tokens": sum(map(len, corpus.train)),
            "parameters": sum(p.numel() for p in model.parameters()), "recipe": asdict(recipe), "shape": asdict(shape),
        }  # fmt: skip
        write_folder(model, corpus.tokenizer, shape, facts, out)
        write_card(facts, PROMPT, sample(model, corpus.tokenizer, PROMPT, shape.context, recipe.seed), recipe.seed, out)
    return min(best, per_token)


def main(arguments: list[str]) -> None:
    """Reads the command line, trains, writes OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "text" / "tinystories")
    parser.add_argument("--minutes", type=float, default=100.0, help="CPU minutes of this process (all threads)")
    parser.add_argument("--until", help="HH:MM, the wall-clock time at which training ends at the latest")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    shape, recipe = Shape(), Recipe()
    corpus = prepare(options.data, shape, recipe.seed)
    print(f"{len(corpus.train)} stories, {sum(map(len, corpus.train))} tokens; held out {len(corpus.held)} stories, "
          f"{sum(map(len, corpus.held))} tokens, {corpus.held_chars} characters", flush=True)  # fmt: skip
    train(corpus, shape, recipe, Clock(options.minutes, options.until), options.out, options.threads)


if __name__ == "__main__":
    main(sys.argv[1:])
