"""ONNX Runtime as `bench.encoders` runs it, with an interpreter that has onnxruntime, onnx, torch and transformers:

    python bench/peers/onnx_encoder.py FOLDER int8|f32 THREADS

Reads lines of JSON, lists of texts in batches, and answers each with the seconds that all its batches took, and the
first embedding.  The model is exported from the folder; int8 is what `quantize_dynamic` makes of it.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer
from transformers import AutoModel

NAMES = ["input_ids", "attention_mask", "token_type_ids"]


class States(torch.nn.Module):
    """The last hidden states of a model, by the names of its inputs."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(NAMES, inputs, strict=True))).last_hidden_state


def export(folder: str, target: Path, quantized: bool) -> Path:
    """The model of a folder as an ONNX file."""
    model = States(folder).eval()
    plain, small = target / "model.onnx", target / "int8.onnx"
    ids = torch.ones(2, 8, dtype=torch.int64)
    axes = {name: {0: "batch", 1: "length"} for name in [*NAMES, "last_hidden_state"]}
    with torch.no_grad():
        torch.onnx.export(model, (ids, ids, ids * 0), str(plain), input_names=NAMES, output_names=["last_hidden_state"],
                          dynamic_axes=axes, opset_version=17, dynamo=False)  # fmt: skip
    if not quantized:
        return plain
    quantize_dynamic(plain, small, weight_type=QuantType.QInt8)
    return small


class Encoder:
    """Mean-pooled, normalized embeddings, as sentence-transformers makes them."""

    def __init__(self, folder: str, kind: str, threads: int) -> None:
        self.tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self.tokenizer.enable_padding()
        self.tokenizer.enable_truncation(256)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        with tempfile.TemporaryDirectory() as place:
            self.session = onnxruntime.InferenceSession(str(export(folder, Path(place), kind == "int8")), options)

    def embed(self, texts: list[str]) -> np.ndarray:
        """float32 [n, d]."""
        found = self.tokenizer.encode_batch(texts)
        ids, mask, kinds = (np.array([getattr(e, n) for e in found]) for n in ("ids", "attention_mask", "type_ids"))
        (states,) = self.session.run(None, dict(zip(NAMES, (ids, mask, kinds), strict=True)))
        pooled = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), np.float32)


def main() -> None:
    """Answers until its input ends."""
    folder, kind, threads = sys.argv[1:]
    encoder = Encoder(folder, kind, int(threads))
    answer = os.fdopen(os.dup(1), "w")
    answer.write(json.dumps({"version": onnxruntime.__version__}) + "\n")
    answer.flush()
    for line in sys.stdin:
        batches = json.loads(line)
        start = time.perf_counter()
        found = [encoder.embed(batch) for batch in batches]
        seconds = time.perf_counter() - start
        answer.write(json.dumps({"seconds": seconds, "first": found[0][0].tolist()}) + "\n")
        answer.flush()


if __name__ == "__main__":
    main()
