"""onnxruntime-genai on a folder that `bench.genai_random` wrote; runs in an interpreter that has the package."""

import json
from pathlib import Path

import numpy as np
import onnxruntime_genai as og

from bench.peers.protocol import main


class GenAI:
    """A model behind onnxruntime-genai's generator, which keeps the cache and picks the most likely token."""

    def __init__(self, folder: str, threads: int) -> None:
        config = og.Config(folder)
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self.model = og.Model(config)
        self.vocab = json.loads(Path(folder, "genai_config.json").read_text("utf-8"))["model"]["vocab_size"]
        self.version = og.__version__

    def reset(self, room: int) -> None:
        params = og.GeneratorParams(self.model)
        params.set_search_options(do_sample=False, min_length=room, max_length=room)  # no end before the last token
        self.generator = og.Generator(self.model, params)

    def feed(self, tokens: list[int]) -> None:
        self.generator.append_tokens(np.array([tokens], np.int32))

    def step(self) -> None:
        self.generator.generate_next_token()


if __name__ == "__main__":
    main(GenAI, "model")
