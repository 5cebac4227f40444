"""Train, pack and measure the embedded classifiers: sms_spam, language_id, financial_risk_detection.

    python tools/train_classifier.py train NAME OUT [--data ../shared/data]    (needs torch and transformers)
    python tools/train_classifier.py pack NAME OUT [--data ../shared/data]     (needs what lepton_edge needs)
    python tools/train_classifier.py measure NAME [--data ../shared/data]      (the same)

`train` writes OUT, a Hugging Face folder in f32 (BertForSequenceClassification with a byte-level BPE of its own), and
training.json beside its weights. `pack` runs `lepton quantize --format q8` on it into weights/NAME, measures the packed
model with lepton itself on the held-out rows, and writes the card with what it measured. `measure` does so again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import classifier_card
import classifier_data
from classifier_data import Row, Split

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import BertForSequenceClassification

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "weights"
PAD, CLS, SEP = "[PAD]", "[CLS]", "[SEP]"
CONTEXT = 512


@dataclass(frozen=True)
class Recipe:
    """One classifier: its rows, its shape, its tokenizer and how it is trained.

    Attributes:
        rows: reads the data; labels: the classes in the order of the head.
        answer: `fields` of lepton.json.
        augment: a text as another one with the same label, anew in each epoch.
        lower, digits, han: fold case; count digits rather than read them; each Chinese character a word of its own.
        weights: of the classes in the loss.
        noise: of the tokens, those that become another one at random in training.
    """

    rows: Callable[[Path], Split]
    labels: tuple[str, ...]
    answer: dict[str, Any]
    vocab: int
    augment: Callable[[str, random.Random], str] | None = None
    lower: bool = False
    digits: bool = False
    han: bool = False
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    feed_forward: int = 256
    epochs: int = 20
    batch: int = 32
    lr: float = 1e-3
    decay: float = 0.05
    dropout: float = 0.2
    smoothing: float = 0.05
    noise: float = 0.1
    length: int = 192
    weights: tuple[float, ...] = ()
    seed: int = 1


RISK = {"value": "probability", "label": "risk"}
RECIPES = {
    "sms_spam": Recipe(
        classifier_data.sms_spam, ("ham", "spam"),
        {"label": {"value": "label"}, "spam_probability": {"value": "probability", "label": "spam", "digits": 4}},
        vocab=3000, digits=True, epochs=8,
    ),
    "language_id": Recipe(
        classifier_data.language_id, classifier_data.LANGUAGES,
        {"language": {"value": "label"}, "probability": {"value": "probability", "digits": 4}},
        vocab=4000, augment=classifier_data.fragment,
    ),
    "financial_risk_detection": Recipe(
        classifier_data.risk, ("normal", "risk"),
        {
            "risk_score": {**RISK, "scale": 100, "digits": 1},
            "risk_probability": {**RISK, "digits": 4},
            "risk_level": {**RISK, "value": "level", "thresholds": {"low": 0, "medium": 0.4, "high": 0.8}},
        },
        vocab=1500, digits=True, han=True, epochs=6,
    ),
}  # fmt: skip


def train_tokenizer(texts: list[str], recipe: Recipe) -> Tokenizer:
    """A byte-level BPE, which knows every text; [CLS] text [SEP]."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    steps: list[Any] = [normalizers.NFKC()]
    if recipe.lower:
        steps.append(normalizers.Lowercase())
    if recipe.digits:
        steps.append(normalizers.Replace(Regex("[0-9]"), "0"))
    tokenizer.normalizer = normalizers.Sequence(steps)
    words: list[Any] = [pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated")] if recipe.han else []
    words.append(pre_tokenizers.ByteLevel(add_prefix_space=not recipe.han))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab, min_frequency=3, special_tokens=[PAD, CLS, SEP], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in (CLS, SEP)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", pair=f"{CLS} $A {SEP} $B:1 {SEP}:1", special_tokens=ends
    )
    return tokenizer


def build_model(recipe: Recipe, vocab: int) -> BertForSequenceClassification:
    """The model with seeded weights; positions start at zero, so that those no text reached say nothing."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(recipe.seed)
    config = BertConfig(
        vocab_size=vocab, hidden_size=recipe.hidden, num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads, intermediate_size=recipe.feed_forward, max_position_embeddings=CONTEXT,
        type_vocab_size=2, hidden_dropout_prob=recipe.dropout, attention_probs_dropout_prob=recipe.dropout,
        pad_token_id=0, id2label=dict(enumerate(recipe.labels)), label2id={n: i for i, n in enumerate(recipe.labels)},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    torch.nn.init.zeros_(model.bert.embeddings.position_embeddings.weight)
    return model


def padded(sequences: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids int64 [B, T] and the mask of those that are none of padding."""
    import torch

    width = max(map(len, sequences))
    ids = torch.tensor([s + [0] * (width - len(s)) for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences])
    return ids, mask


def batches(rows: list[Row], tokenizer: Tokenizer, recipe: Recipe, rng: random.Random) -> Iterator[tuple[Any, ...]]:
    """One epoch of (ids, mask, classes): rows of like length together, in an order of chance."""
    import torch

    texts = [recipe.augment(text, rng) if recipe.augment else text for _, text in rows]
    ids = [e.ids[: recipe.length - 1] + e.ids[-1:] if len(e.ids) > recipe.length else e.ids
           for e in tokenizer.encode_batch(texts)]  # fmt: skip
    order = sorted(range(len(rows)), key=lambda i: len(ids[i]) + rng.uniform(-4, 4))
    groups = [order[i : i + recipe.batch] for i in range(0, len(order), recipe.batch)]
    rng.shuffle(groups)
    size = tokenizer.get_vocab_size()
    for group in groups:
        chosen = [[t if t < 3 or rng.random() >= recipe.noise else rng.randrange(3, size) for t in ids[i]]
                  for i in group]  # fmt: skip
        yield *padded(chosen), torch.tensor([recipe.labels.index(rows[i][0]) for i in group])


def accuracy(model: torch.nn.Module, tokenizer: Tokenizer, rows: list[Row], recipe: Recipe) -> float:
    """The part of rows whose likeliest label is theirs."""
    import torch

    model.eval()
    right = 0
    order = sorted(rows, key=lambda row: len(row[1]))
    with torch.no_grad():
        for start in range(0, len(order), 64):
            group = order[start : start + 64]
            ids, mask = padded([e.ids[:CONTEXT] for e in tokenizer.encode_batch([text for _, text in group])])
            best = model(input_ids=ids, attention_mask=mask).logits.argmax(1).tolist()
            right += sum(recipe.labels[b] == label for b, (label, _) in zip(best, group, strict=True))
    model.train()
    return right / len(rows)


def fit(
    model: torch.nn.Module, tokenizer: Tokenizer, rows: list[Row], dev: list[Row], recipe: Recipe
) -> tuple[float, float]:
    """Trains with AdamW; the weights become their moving mean. Returns the last epoch's loss and the CPU seconds."""
    import torch

    torch.set_num_threads(1)
    rng = random.Random(recipe.seed)
    steps = recipe.epochs * math.ceil(len(rows) / recipe.batch)
    parameters = list(model.parameters())
    groups = [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.decay},
              {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps, pct_start=0.1)
    mean = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    weight = torch.tensor(recipe.weights) if recipe.weights else None
    loss_of = torch.nn.CrossEntropyLoss(weight, label_smoothing=recipe.smoothing)
    model.train()
    started, last = time.process_time(), 0.0
    for epoch in range(recipe.epochs):
        total = 0.0
        for ids, mask, classes in batches(rows, tokenizer, recipe, rng):
            loss = loss_of(model(input_ids=ids, attention_mask=mask).logits, classes)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            mean.update_parameters(model)
            total += loss.item() * len(classes)
        last = total / len(rows)
        right, cpu = accuracy(mean.module, tokenizer, dev, recipe), time.process_time() - started
        print(f"epoch {epoch + 1}/{recipe.epochs}: loss {last:.4f}, dev {right:.4f}, {cpu:.0f} s", flush=True)
    model.load_state_dict(mean.module.state_dict())
    return last, time.process_time() - started


def train(name: str, out: Path, data: Path) -> None:
    """Trains a model of the table and writes OUT: a Hugging Face folder and training.json."""
    recipe = RECIPES[name]
    split = recipe.rows(data)
    rows = split.train + split.dev
    tokenizer = train_tokenizer([text for _, text in rows], recipe)
    model = build_model(recipe, tokenizer.get_vocab_size())
    print(f"{name}: {len(rows)} rows, {tokenizer.get_vocab_size()} tokens, {model.num_parameters():,} parameters")
    loss, cpu = fit(model, tokenizer, rows, split.dev, recipe)
    model.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD, "cls_token": CLS, "sep_token": SEP,
                "model_max_length": CONTEXT}  # fmt: skip
    reads = [text for on, text in ((recipe.lower, "case is folded"), (recipe.digits, "all digits are read as 0"),
                                   (recipe.han, "a Chinese character is a word")) if on]  # fmt: skip
    shape = ("layers", "hidden", "heads", "feed_forward", "length", "epochs", "seed")
    facts = {key: getattr(recipe, key) for key in shape}
    facts |= dict(parameters=model.num_parameters(), vocab=tokenizer.get_vocab_size(), rows=len(rows), cpu=cpu,
                  loss=loss, reads="; ".join(reads) or "texts as they are")  # fmt: skip
    for file, value in (("tokenizer_config.json", settings), ("training.json", facts)):
        (out / file).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def figures_of(name: str, folder: Path, data: Path) -> dict[str, classifier_card.Figures]:
    """What lepton gets right with a folder, on each set of rows of its card."""
    sets = classifier_data.measured(name, RECIPES[name].rows(data).held)
    return {title: classifier_card.measure(folder, rows) for title, rows in sets.items()}


def pack(name: str, source: Path, data: Path, weights: Path = WEIGHTS) -> None:
    """Packs `source` to q8 as weights/NAME, in place of what was there, and measures it for its card."""
    from lepton_edge.cli import main as lepton

    facts = json.loads((source / "training.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(dir=weights) as temporary:
        folder = Path(temporary) / name
        if lepton(["quantize", str(source), str(folder), "--format", "q8"]):
            raise SystemExit(1)
        (folder / "lepton.json").write_text(
            json.dumps({"version": 1, "task": "classify", "truncate": True, "fields": RECIPES[name].answer},
                       indent=2, ensure_ascii=False) + "\n", encoding="utf-8")  # fmt: skip
        figures = figures_of(name, folder, data)
        unpacked = classifier_card.measure(source, RECIPES[name].rows(data).held)
        size = sum(path.stat().st_size for path in folder.iterdir())
        text = classifier_card.card(name, facts, figures, unpacked, size)
        (folder / "README.md").write_text(text, encoding="utf-8")
        shutil.rmtree(weights / name, ignore_errors=True)
        folder.rename(weights / name)
    print(classifier_card.table(figures))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "pack", "measure"))
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("out", type=Path, nargs="?", help="the folder that train writes and pack reads")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    given = parser.parse_args()
    if given.step == "measure":
        print(classifier_card.table(figures_of(given.name, given.out or WEIGHTS / given.name, given.data)))
    elif given.out is None:
        parser.error(f"{given.step} needs OUT")
    else:
        (train if given.step == "train" else pack)(given.name, given.out, given.data)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
