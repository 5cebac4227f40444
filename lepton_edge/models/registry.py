"""Which architectures lepton_edge runs, by the name that config.json gives them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any

from ..checkpoint.store import Checkpoint
from ..errors import RequestError, UnsupportedModelError
from . import (
    albert,
    bart,
    bert,
    bloom,
    cohere,
    deberta_v2,
    distilbert,
    electra,
    exaone4,
    falcon,
    gemma,
    gpt2,
    gpt_neo,
    gpt_neox,
    gpt_oss,
    granite,
    lfm2,
    llama,
    mamba,
    mistral,
    mixtral,
    modernbert,
    mpnet,
    mpt,
    nomic_bert,
    olmo,
    olmoe,
    opt,
    phi,
    qwen2,
    qwen3,
    qwen_moe,
    rnn,
    roberta,
    rwkv,
    smollm3,
    stablelm,
    starcoder2,
    t5,
)
from .fields import Fields
from .spec import ModelSpec

__all__ = ["families", "register", "spec_from_config", "spec_of"]

ENTRY_POINTS = "lepton_edge.families"

READERS: dict[str, Callable[[Fields], ModelSpec]] = {
    "BartForConditionalGeneration": bart.read,
    "BloomForCausalLM": bloom.read,
    "CTranslate2Transformer": bart.read_ctranslate2,
    "Cohere2ForCausalLM": cohere.read_cohere2,
    "CohereForCausalLM": cohere.read,
    "Exaone4ForCausalLM": exaone4.read,
    "FalconForCausalLM": falcon.read,
    "GPT2LMHeadModel": gpt2.read,
    "GPTBigCodeForCausalLM": gpt2.read_bigcode,
    "GPTNeoForCausalLM": gpt_neo.read,
    "GPTNeoXForCausalLM": gpt_neox.read,
    "GptOssForCausalLM": gpt_oss.read,
    "Gemma2ForCausalLM": gemma.read_gemma2,
    "Gemma3ForCausalLM": gemma.read_gemma3,
    "GemmaForCausalLM": gemma.read,
    "GraniteForCausalLM": granite.read,
    "GraniteMoeForCausalLM": granite.read_moe,
    "Lfm2ForCausalLM": lfm2.read,
    "LlamaForCausalLM": llama.read,
    "M2M100ForConditionalGeneration": bart.read_m2m100,
    "MBartForConditionalGeneration": bart.read_mbart,
    "MT5ForConditionalGeneration": t5.read_mt5,
    "Mamba2ForCausalLM": mamba.read2,
    "MambaForCausalLM": mamba.read,
    "MarianMTModel": bart.read_marian,
    "MiniCPMForCausalLM": llama.read_minicpm,
    "Ministral3ForCausalLM": mistral.read_ministral3,
    "MinistralForCausalLM": mistral.read_ministral,
    "MistralForCausalLM": mistral.read,
    "MixtralForCausalLM": mixtral.read,
    "MPTForCausalLM": mpt.read,
    "MptForCausalLM": mpt.read,
    "OPTForCausalLM": opt.read,
    "Olmo2ForCausalLM": olmo.read_olmo2,
    "Olmo3ForCausalLM": olmo.read_olmo3,
    "OlmoForCausalLM": olmo.read,
    "OlmoeForCausalLM": olmoe.read,
    "PegasusForConditionalGeneration": bart.read_pegasus,
    "Phi3ForCausalLM": phi.read_phi3,
    "PhiForCausalLM": phi.read,
    "Qwen2ForCausalLM": qwen2.read,
    "Qwen2MoeForCausalLM": qwen_moe.read_qwen2_moe,
    "Qwen3ForCausalLM": qwen3.read,
    "Qwen3MoeForCausalLM": qwen_moe.read_qwen3_moe,
    "RWKV7ForCausalLM": rwkv.read7,
    "RnnForCausalLM": rnn.read_language,
    "RnnForSeq2Seq": rnn.read_seq2seq,
    "RnnForSequenceClassification": rnn.read_classes,
    "RnnForTokenClassification": rnn.read_tokens,
    "RnnModel": rnn.read,
    "RwkvForCausalLM": rwkv.read4,
    "SmolLM3ForCausalLM": smollm3.read,
    "StableLmForCausalLM": stablelm.read,
    "Starcoder2ForCausalLM": starcoder2.read,
    "T5ForConditionalGeneration": t5.read,
    **albert.ARCHITECTURES,
    **bert.ARCHITECTURES,
    **deberta_v2.ARCHITECTURES,
    **distilbert.ARCHITECTURES,
    **electra.ARCHITECTURES,
    **modernbert.ARCHITECTURES,
    **mpnet.ARCHITECTURES,
    **nomic_bert.ARCHITECTURES,
    **roberta.ARCHITECTURES,
}


def register(architecture: str, read: Callable[[Fields], ModelSpec]) -> None:
    """Teach this process another architecture: `read` makes a spec of a config's fields.

    A package does the same for every process with an entry point of the group `lepton_edge.families`, whose name is the
    architecture and whose object is such a function.  RequestError for an architecture that is there already.
    """
    if architecture in READERS:
        raise RequestError(f"register({architecture!r}): this architecture is there already; choose another name")
    READERS[architecture] = read


def families() -> list[str]:
    """The architectures that can be run, as config.json names them."""
    return sorted({*READERS, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})


def spec_from_config(config: Mapping[str, Any], where: str) -> ModelSpec:
    """The model that a parsed config.json describes; `where` is the file's path, for messages.

    Raises ConfigError for a value that is wrong, and UnsupportedModelError for a sound config of another architecture
    or with a feature that lepton_edge lacks.
    """
    fields = Fields(config, where)
    architecture = fields.texts("architectures")[0]
    if architecture not in READERS:
        _find(architecture)
    if architecture not in READERS:
        raise UnsupportedModelError(
            f"{where}: the architecture {architecture[:100]!r} is not supported; the nearest that are: "
            f"{', '.join(_nearest(architecture))}; `lepton inspect --families` lists all of them"
        )
    return READERS[architecture](fields)


def _find(architecture: str) -> None:
    """Register an architecture that an installed package brings."""
    for entry in entry_points(group=ENTRY_POINTS, name=architecture):
        register(architecture, entry.load())
        return


def _nearest(architecture: str) -> list[str]:
    """The three supported ones whose names are most alike, whatever they end in, with capitals or without."""

    def stem(name: str) -> str:
        return re.sub(r"(For[A-Z]|LMHead|Model$).*", "", name).lower()

    names: dict[str, str] = {stem(name): name for name in families()}
    return [names[near] for near in get_close_matches(stem(architecture), names, 3, 0.0)]


def spec_of(checkpoint: Checkpoint) -> ModelSpec:
    """The model in an open folder, all of whose tensors have been found there with the right shapes.

    Raises ConfigError, UnsupportedModelError, or a CheckpointError that lists every tensor that is missing or wrong.
    """
    spec = spec_from_config(checkpoint.config, str(checkpoint.folder / "config.json")).with_tensors(checkpoint.names)
    if spec.head is not None and (checkpoint.folder / "modules.json").is_file():
        bare = replace(spec, head=None)
        # sentence-transformers stores the bare model, whatever architecture its config names
        spec = spec if spec.tensors().keys() <= checkpoint.names else bare
    checkpoint.arrange(spec.stored())
    checkpoint.require(spec.tensors())
    return spec
