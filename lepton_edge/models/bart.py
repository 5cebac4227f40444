"""Bart (arXiv:1910.13461) and its kin: MBart (arXiv:2001.08210), Marian (arXiv:1804.00344), Pegasus (arXiv:1912.08777),
M2M100 (arXiv:2010.11125) and NLLB (arXiv:2207.04672)."""

from .fields import Fields
from .pair import read_pair
from .spec import ModelSpec

__all__ = ["read", "read_ctranslate2", "read_m2m100", "read_marian", "read_mbart", "read_pegasus"]

SHARED = "model.shared"
SUMS = dict(norm_before=False, norm_sum=True, final_norm=False)


def read(fields: Fields) -> ModelSpec:
    """The spec of a BartForConditionalGeneration config: norms of sums, learned positions from row 2 on."""
    return read_pair(fields, "bart", start=2, shared=SHARED, first_position=2, embed_norm=True, **SUMS)


def read_mbart(fields: Fields) -> ModelSpec:
    """The spec of an MBartForConditionalGeneration config: norms before, and at the end."""
    fields = fields.with_default(decoder_start_token_id=fields.integer("eos_token_id", 0, 1 << 24, default=2))
    return read_pair(fields, "mbart", shared=SHARED, first_position=2, embed_norm=True)


def read_ctranslate2(fields: Fields) -> ModelSpec:
    """The spec of an OpenNMT Transformer that tools/import_ctranslate2.py wrote: norms before, and tables apart."""
    return read_pair(fields, "ctranslate2", tied=False, start=1, first_position=1, sinusoids="fairseq")


def read_marian(fields: Fields) -> ModelSpec:
    """The spec of a MarianMTModel config: norms of sums, computed positions."""
    both = fields.flag("share_encoder_decoder_embeddings", default=True)
    return read_pair(fields, "marian", start=58100, shared=SHARED if both else "", sinusoids="halves", **SUMS)


def read_pegasus(fields: Fields) -> ModelSpec:
    """The spec of a PegasusForConditionalGeneration config: norms before, computed positions."""
    return read_pair(fields, "pegasus", start=0, shared=SHARED, sinusoids="halves")


def read_m2m100(fields: Fields) -> ModelSpec:
    """The spec of an M2M100ForConditionalGeneration config, as NLLB's: positions begin behind the padding id."""
    first = fields.integer("pad_token_id", 0, 1 << 24, default=1) + 1
    fields = fields.with_default(scale_embedding=True, activation_function="relu")
    return read_pair(fields, "m2m_100", start=2, shared=SHARED, bias=False, first_position=first, sinusoids="fairseq")
