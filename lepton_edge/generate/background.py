"""A folder's tokenizer, read beside the loading of its model."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_edge.text import Tokenizer

__all__ = ["TokenizerLoad"]


class TokenizerLoad:
    """Reads a folder's tokenizer in a thread of its own, beside the loading of the engine: a large one takes long.

    quick: whether the file is small, so that `load` waits for it and its errors show at once.
    """

    QUICK_BYTES = 4 << 20

    def __init__(self, folder: Path, model_vocab: int) -> None:
        try:
            self.quick = 0 < (folder / "tokenizer.json").stat().st_size <= self.QUICK_BYTES
        except OSError:
            self.quick = False  # a model without a tokenizer still computes logits
        self._folder = folder
        self._model_vocab = model_vocab
        self._tokenizer: Tokenizer | None = None
        self._error: BaseException | None = None
        # Not a daemon: killing a thread inside Rust code while Python ends would abort the process.
        self._thread = threading.Thread(target=self._run, name="lepton-tokenizer")
        self._thread.start()

    def result(self) -> Tokenizer:
        """The tokenizer, once it is there. Raises TokenizerError."""
        self._thread.join()
        if self._tokenizer is None:
            assert self._error is not None
            raise self._error
        return self._tokenizer

    def _run(self) -> None:
        from lepton_edge.text import Tokenizer

        try:
            self._tokenizer = Tokenizer.load(self._folder, self._model_vocab)
        except BaseException as error:
            self._error = error
