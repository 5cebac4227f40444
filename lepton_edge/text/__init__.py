"""Text to token ids and back: the tokenizer of a model folder, whole and one token at a time."""

from lepton_edge.text.detokenizer import Detokenizer
from lepton_edge.text.tokenizer import Tokenizer

__all__ = ["Detokenizer", "Tokenizer"]
