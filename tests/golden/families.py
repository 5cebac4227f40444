"""Small models of every family but Llama, Mistral and Qwen2 (see `recipe.py`), as data: their configs, and no more.

Names and shapes of their tensors come from lepton_edge's own specs; tools/make_golden.py, which stores the logits of
transformers in families.npz, refuses a folder whose tensors are not exactly those that transformers asks for.
"""

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge.models.registry import spec_from_config
from lepton_edge.models.spec import ModelSpec

from .recipe import GOLDEN, _hash, _normal, _write_safetensors

LENGTH = 40


@dataclass(frozen=True)
class Family:
    """One model. `bare`: its folder leaves out the names' first word; `steps`: golden logits of single steps.

    `sdpa`: of PyTorch's own attention, because transformers' eager one counts Falcon's ALiBi twice.  `runs_as`: the
    config of a family that transformers has, where it lacks this one, and the two are the same with these numbers.
    """

    name: str
    config: dict[str, Any]
    bare: bool = False
    steps: bool = False
    sdpa: bool = False
    runs_as: dict[str, Any] | None = None

    @property
    def spec(self) -> ModelSpec:
        """As its folder names the tensors."""
        spec = spec_from_config(self.config, self.name)
        return replace(spec, names=spec.names.without_prefix()) if self.bare else spec


def _family(name: str, architecture: str, kind: str, *configs: dict[str, Any], bare: bool = False, steps: bool = False,
            sdpa: bool = False, runs_as: dict[str, Any] | None = None, **fields: Any) -> Family:  # fmt: skip
    shared = {"architectures": [architecture], "model_type": kind, "bos_token_id": 1, "eos_token_id": 2}
    for config in configs:
        shared = shared | config
    return Family(name, shared | fields, bare, steps, sdpa, runs_as)


def _sizes(hidden: int, ffn: int, heads: int, kv_heads: int, vocab: int = 61, layers: int = 2) -> dict[str, Any]:
    """Under Llama's names."""
    return {
        "hidden_size": hidden, "intermediate_size": ffn, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "vocab_size": vocab, "num_hidden_layers": layers, "max_position_embeddings": 128,
    }  # fmt: skip


def _few(hidden: int, heads: int, vocab: int = 61, layers: int = 2) -> dict[str, Any]:
    """Under GPT-2's names."""
    return {"n_embd": hidden, "n_head": heads, "n_layer": layers, "vocab_size": vocab, "n_positions": 64}


UNTIED, TIED = {"tie_word_embeddings": False}, {"tie_word_embeddings": True}
KINDS = ["sliding_attention", "full_attention", "sliding_attention"]
QWEN3, GEMMA, GEMMA2 = ("Qwen3ForCausalLM", "qwen3"), ("GemmaForCausalLM", "gemma"), ("Gemma2ForCausalLM", "gemma2")
GEMMA3, PHI, PHI3 = ("Gemma3ForCausalLM", "gemma3_text"), ("PhiForCausalLM", "phi"), ("Phi3ForCausalLM", "phi3")
SMOLLM3, GPT2 = ("SmolLM3ForCausalLM", "smollm3"), ("GPT2LMHeadModel", "gpt2")
NEOX, NEO = ("GPTNeoXForCausalLM", "gpt_neox"), ("GPTNeoForCausalLM", "gpt_neo")
GRANITE, STARCODER2 = ("GraniteForCausalLM", "granite"), ("Starcoder2ForCausalLM", "starcoder2")
OLMO, OLMO2, OLMO3 = (("OlmoForCausalLM", "olmo"), ("Olmo2ForCausalLM", "olmo2"), ("Olmo3ForCausalLM", "olmo3"))
STABLELM, COHERE = ("StableLmForCausalLM", "stablelm"), ("CohereForCausalLM", "cohere")
COHERE2, FALCON = ("Cohere2ForCausalLM", "cohere2"), ("FalconForCausalLM", "falcon")
OPT, BLOOM, MPT = ("OPTForCausalLM", "opt"), ("BloomForCausalLM", "bloom"), ("MptForCausalLM", "mpt")
EXAONE4, BIGCODE = ("Exaone4ForCausalLM", "exaone4"), ("GPTBigCodeForCausalLM", "gpt_bigcode")
MINISTRAL, MIXTRAL = ("MinistralForCausalLM", "ministral"), ("MixtralForCausalLM", "mixtral")
QWEN2_MOE, QWEN3_MOE = ("Qwen2MoeForCausalLM", "qwen2_moe"), ("Qwen3MoeForCausalLM", "qwen3_moe")
GPT_OSS = ("GptOssForCausalLM", "gpt_oss")
OLMOE, GRANITE_MOE = ("OlmoeForCausalLM", "olmoe"), ("GraniteMoeForCausalLM", "granitemoe")
MINISTRAL3, MINICPM = ("Ministral3ForCausalLM", "ministral3"), ("MiniCPMForCausalLM", "minicpm")

LONG = {
    "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.5, 2.0, 4.0, 8.0],
    "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
}  # fmt: skip
GROWING = {
    "rope_type": "yarn", "type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 9,
    "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3,
}  # fmt: skip


def _minicpm(name: str, sizes: dict[str, Any], embed: float, depth: float, base: int, **fields: Any) -> Family:
    """transformers has no MiniCPM; a Granite has the same four factors, under other names (arXiv:2404.06395, 3.4)."""
    granite = sizes | fields | {
        "architectures": ["GraniteForCausalLM"], "model_type": "granite", "embedding_multiplier": embed,
        "residual_multiplier": depth / math.sqrt(sizes["num_hidden_layers"]),
        "logits_scaling": sizes["hidden_size"] / base,
        "attention_multiplier": (sizes["hidden_size"] // sizes["num_attention_heads"]) ** -0.5,
    }  # fmt: skip
    return _family(name, *MINICPM, sizes, fields, scale_emb=embed, scale_depth=depth, dim_model_base=base,
                   runs_as=granite)  # fmt: skip


FAMILIES = [
    _family("qwen3_gqa", *QWEN3, _sizes(60, 80, 6, 2), TIED, head_dim=12, rope_theta=1e6),
    _family("qwen3_mqa", *QWEN3, _sizes(48, 70, 5, 1), UNTIED, head_dim=8, attention_bias=True),
    _family("qwen3_window", *QWEN3, _sizes(48, 64, 3, 3, layers=3), UNTIED, head_dim=16, use_sliding_window=True,
            sliding_window=7, max_window_layers=1),
    _family("gemma_mqa", *GEMMA, _sizes(48, 72, 3, 1), head_dim=20, hidden_activation="gelu_pytorch_tanh"),
    _family("gemma_mha", *GEMMA, _sizes(40, 64, 2, 2), UNTIED, head_dim=32, attention_bias=True),
    _family("gemma2", *GEMMA2, _sizes(48, 70, 4, 2, layers=3), head_dim=14, sliding_window=9, query_pre_attn_scalar=20,
            attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    _family("gemma2_no_caps", *GEMMA2, _sizes(48, 64, 3, 1), UNTIED, head_dim=16, attn_logit_softcapping=None,
            final_logit_softcapping=None, layer_types=KINDS[:2], sliding_window=5),
    _family("gemma3", *GEMMA3, _sizes(48, 70, 4, 2, layers=3), head_dim=16, sliding_window=8, sliding_window_pattern=3,
            query_pre_attn_scalar=24, rope_theta=50000.0, rope_local_base_freq=300.0),
    _family("gemma3_cap", *GEMMA3, _sizes(40, 48, 5, 1, layers=3), head_dim=8, sliding_window=8,
            sliding_window_pattern=2, final_logit_softcapping=3.0, query_pre_attn_scalar=8),
    _family("gemma3_linear", *GEMMA3, _sizes(48, 50, 3, 1, layers=3), UNTIED, head_dim=10, sliding_window=6,
            layer_types=KINDS, rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 9000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}),
    _family("phi", *PHI, _sizes(48, 70, 3, 3), partial_rotary_factor=0.5),
    _family("phi_gqa", *PHI, _sizes(64, 96, 4, 2), partial_rotary_factor=0.25, hidden_act="gelu"),
    _family("phi_norms", *PHI, _sizes(60, 70, 5, 5), TIED, partial_rotary_factor=0.5, qk_layernorm=True),
    _family("phi3", *PHI3, _sizes(48, 80, 4, 4), UNTIED, sliding_window=11, pad_token_id=0),
    _family("phi3_long", *PHI3, _sizes(64, 96, 4, 1), TIED, pad_token_id=0, original_max_position_embeddings=24,
            rope_parameters=LONG, steps=True),
    _family("phi3_short", *PHI3, _sizes(64, 112, 4, 2), UNTIED, pad_token_id=0, original_max_position_embeddings=64,
            rope_parameters=LONG),
    _family("smollm3", *SMOLLM3, _sizes(48, 64, 6, 2, layers=4), pad_token_id=0),
    _family("smollm3_listed", *SMOLLM3, _sizes(40, 70, 5, 1, layers=3), UNTIED, no_rope_layers=[0, 1, 0],
            pad_token_id=0, attention_bias=True, mlp_bias=True),
    _family("gpt2", *GPT2, _few(60, 5), TIED),
    _family("gpt2_exact", *GPT2, _few(60, 5), TIED, activation_function="gelu"),
    _family("gpt2_bare", *GPT2, _few(48, 3), TIED, bare=True, scale_attn_by_inverse_layer_idx=True,
            n_inner=100, activation_function="relu"),
    _family("gpt2_untied", *GPT2, _few(48, 4), UNTIED, scale_attn_weights=False),
    _family("neox", *NEOX, _sizes(60, 90, 3, 3), rotary_pct=0.5),
    _family("neox_serial", *NEOX, _sizes(48, 64, 4, 4), TIED, use_parallel_residual=False, attention_bias=False,
            rotary_pct=1.0, hidden_act="gelu_fast"),
    _family("granite", *GRANITE, _sizes(48, 70, 6, 2), TIED, embedding_multiplier=12.0, attention_multiplier=0.1,
            residual_multiplier=0.22, logits_scaling=8.0),
    _family("granite_bias", *GRANITE, _sizes(48, 64, 3, 1), UNTIED, attention_bias=True, mlp_bias=True,
            attention_multiplier=0.2, residual_multiplier=0.5),
    _family("olmo", *OLMO, _sizes(48, 64, 4, 2), UNTIED, clip_qkv=0.7),
    _family("olmo_tied", *OLMO, _sizes(60, 70, 3, 3), TIED),
    _family("olmo2", *OLMO2, _sizes(48, 70, 4, 2), UNTIED),
    _family("olmo2_mqa", *OLMO2, _sizes(60, 64, 5, 1), TIED, attention_bias=True),
    _family("olmo3", *OLMO3, _sizes(48, 64, 3, 3, layers=4), UNTIED, sliding_window=8),
    _family("starcoder2", *STARCODER2, _sizes(48, 70, 4, 2), TIED),
    _family("starcoder2_window", *STARCODER2, _sizes(60, 64, 5, 1), UNTIED, use_bias=False, sliding_window=9),
    _family("stablelm", *STABLELM, _sizes(48, 70, 3, 3), UNTIED, partial_rotary_factor=0.25, use_qkv_bias=True),
    _family("stablelm_parallel", *STABLELM, _sizes(64, 60, 4, 2), TIED, use_parallel_residual=True,
            partial_rotary_factor=0.5),
    _family("stablelm_norms", *STABLELM, _sizes(60, 64, 6, 2), UNTIED, partial_rotary_factor=0.4, qk_layernorm=True,
            use_parallel_residual=True),
    _family("cohere", *COHERE, _sizes(48, 70, 4, 2), TIED, logit_scale=0.25, use_qk_norm=True),
    _family("cohere_plain", *COHERE, _sizes(60, 64, 3, 1), TIED, attention_bias=True),
    _family("cohere2", *COHERE2, _sizes(48, 64, 4, 2, layers=4), TIED, head_dim=12, sliding_window=7),
    _family("falcon_7b", *FALCON, _sizes(60, 240, 5, 1), TIED, multi_query=True, parallel_attn=True),
    _family("falcon_40b", *FALCON, _sizes(64, 256, 8, 2), TIED, new_decoder_architecture=True, num_kv_heads=2),
    _family("falcon_11b", *FALCON, _sizes(64, 200, 4, 4), UNTIED, new_decoder_architecture=True, num_kv_heads=2,
            num_ln_in_parallel_attn=1, ffn_hidden_size=200),
    _family("falcon_rw", *FALCON, _sizes(64, 256, 4, 4), TIED, alibi=True, multi_query=False, parallel_attn=False,
            bias=True, sdpa=True),
    _family("opt", *OPT, _sizes(48, 70, 3, 3), TIED, ffn_dim=70, word_embed_proj_dim=48),
    _family("opt_narrow", *OPT, _sizes(48, 64, 4, 4), TIED, ffn_dim=64, word_embed_proj_dim=20, enable_bias=False),
    _family("opt_350m", *OPT, _sizes(48, 64, 4, 4), TIED, ffn_dim=64, word_embed_proj_dim=20,
            do_layer_norm_before=False),
    _family("opt_sums", *OPT, _sizes(60, 70, 3, 3), UNTIED, ffn_dim=70, word_embed_proj_dim=60, enable_bias=False,
            do_layer_norm_before=False),
    _family("opt_galactica", *OPT, _sizes(48, 80, 3, 3), UNTIED, ffn_dim=80, word_embed_proj_dim=48, enable_bias=False,
            layer_norm_elementwise_affine=False, activation_function="gelu", _remove_final_layer_norm=True),
    _family("bloom", *BLOOM, _few(48, 4), hidden_size=48),
    _family("bloom_odd", *BLOOM, _few(60, 3), hidden_size=60, bare=True),
    _family("mpt", *MPT, d_model=48, n_heads=4, n_layers=2, vocab_size=61, max_seq_len=64),
    _family("mpt_odd", "MPTForCausalLM", "mpt", d_model=60, n_heads=3, n_layers=2, vocab_size=61, max_seq_len=64,
            attn_config={"clip_qkv": 0.8, "softmax_scale": 0.3, "alibi": True}),
    _family("exaone4", *EXAONE4, _sizes(48, 70, 4, 2, layers=4), UNTIED, sliding_window=7, sliding_window_pattern=2),
    _family("exaone4_full", *EXAONE4, _sizes(48, 64, 3, 1), TIED, sliding_window=None,
            layer_types=["full_attention"] * 2),
    _family("neo", *NEO, hidden_size=48, num_heads=3, num_layers=3, vocab_size=61, max_position_embeddings=64,
            window_size=6, attention_types=[[["global", "local"], 1], [["local"], 1]]),
    _family("bigcode", *BIGCODE, _few(60, 5), TIED),
    _family("bigcode_mha", *BIGCODE, _few(48, 3), UNTIED, multi_query=False, activation_function="gelu"),
    _family("ministral", *MINISTRAL, _sizes(48, 64, 4, 2, layers=3), UNTIED, sliding_window=6, layer_types=KINDS,
            head_dim=14),
    _family("ministral3", *MINISTRAL3, _sizes(48, 64, 4, 2), UNTIED, head_dim=16, rope_parameters=GROWING),
    _family("ministral3_mqa", *MINISTRAL3, _sizes(60, 70, 3, 1), TIED, head_dim=20, sliding_window=11,
            rope_parameters=GROWING | {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 16}),
    _minicpm("minicpm", _sizes(48, 70, 4, 4), 12, 1.4, 16, **TIED),
    _minicpm("minicpm_gqa", _sizes(60, 64, 6, 2, layers=3), 3, 1.1, 20, **UNTIED, rope_theta=500.0),
    _family("mixtral", *MIXTRAL, _sizes(48, 40, 4, 2), UNTIED, num_local_experts=6, num_experts_per_tok=2),
    _family("mixtral_window", *MIXTRAL, _sizes(60, 36, 5, 1, layers=3), TIED, num_local_experts=3, sliding_window=9,
            num_experts_per_tok=1, head_dim=10),
    _family("qwen2_moe", *QWEN2_MOE, _sizes(48, 70, 4, 2, layers=4), UNTIED, num_experts=7, num_experts_per_tok=3,
            moe_intermediate_size=36, shared_expert_intermediate_size=52, decoder_sparse_step=2, mlp_only_layers=[3]),
    _family("qwen2_moe_all", *QWEN2_MOE, _sizes(40, 64, 5, 5, layers=3), TIED, num_experts=4, num_experts_per_tok=4,
            moe_intermediate_size=32, shared_expert_intermediate_size=40, norm_topk_prob=True, qkv_bias=False,
            use_sliding_window=True, sliding_window=7, max_window_layers=2),
    _family("qwen3_moe", *QWEN3_MOE, _sizes(48, 64, 6, 2, layers=3), UNTIED, num_experts=9, num_experts_per_tok=2,
            moe_intermediate_size=44, norm_topk_prob=True, mlp_only_layers=[1], head_dim=10),
    _family("qwen3_moe_window", *QWEN3_MOE, _sizes(60, 50, 5, 1), TIED, num_experts=5, num_experts_per_tok=3,
            moe_intermediate_size=30, attention_bias=True, use_sliding_window=True, sliding_window=11),
    _family("olmoe", *OLMOE, _sizes(48, 40, 4, 4), UNTIED, num_experts=10, num_experts_per_tok=4, pad_token_id=0),
    _family("olmoe_clip", *OLMOE, _sizes(60, 34, 6, 2), TIED, num_experts=4, num_experts_per_tok=2, clip_qkv=0.6,
            norm_topk_prob=True, pad_token_id=0),
    _family("granitemoe", *GRANITE_MOE, _sizes(48, 48, 4, 2), TIED, num_local_experts=6, num_experts_per_tok=3,
            embedding_multiplier=12.0, attention_multiplier=0.1, residual_multiplier=0.22, logits_scaling=6.0),
    _family("granitemoe_mqa", *GRANITE_MOE, _sizes(80, 32, 5, 1), UNTIED, num_local_experts=4, num_experts_per_tok=1,
            attention_bias=True, attention_multiplier=0.3, residual_multiplier=0.5),
    _family("gpt_oss", *GPT_OSS, _sizes(48, 48, 6, 2, layers=3), UNTIED, head_dim=14, num_local_experts=5,
            num_experts_per_tok=2, sliding_window=7, rope_scaling={
                "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16, "beta_fast": 32.0,
                "beta_slow": 1.0, "truncate": False}),
    _family("gpt_oss_mqa", *GPT_OSS, _sizes(64, 32, 5, 1), UNTIED, head_dim=12, num_local_experts=4,
            num_experts_per_tok=4, attention_bias=False, layer_types=["full_attention", "sliding_attention"],
            sliding_window=9, rope_theta=9000.0),
]  # fmt: skip
BY_NAME = {family.name: family for family in FAMILIES}


def token_ids(family: Family) -> np.ndarray:
    """The tokens of the golden run, int32 [LENGTH]."""
    return (_hash(f"{family.name}/tokens", LENGTH) % np.uint64(family.config["vocab_size"])).astype(np.int32)


def tensors(family: Family) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the folder, float32, matrices as they are stored.

    Weights have a variance of about 1/inputs, norms lie around 1; what becomes q and k is larger, so that attention is
    uneven and errors in positions or windows show, and so is what gpt-oss clamps.
    """
    spec = family.spec
    matrices, stored = spec.matrices(), spec.stored()
    for name, shape in spec.tensors().items():
        normal = _normal(f"{family.name}/{name}", math.prod(shape)).reshape(shape)
        if name in matrices or (not name.endswith("bias") and len(shape) == 2 and "norm" not in name):
            loud = any(word in name for word in ("q_proj", "k_proj", "qkv", "query_key", "c_attn"))
            loud = 4.0 if name.endswith("experts.gate_up_proj") else 1.5 if loud else 1.0
            values = normal * (loud / math.sqrt(shape[-1]))
        elif name.endswith("bias"):
            values = 0.3 * normal
        else:
            values = (0.0 if "gemma" in family.name else 1.0) + 0.2 * normal
        single = values.astype(np.float32)
        turned = name in stored and stored[name].transposed
        yield name, np.ascontiguousarray(single.swapaxes(-1, -2) if turned else single)


def checksum(family: Family) -> int:
    """CRC-32 of all that the golden logits depend on."""
    total = zlib.crc32(json.dumps(family.config, sort_keys=True).encode())
    total = zlib.crc32(token_ids(family).astype("<i4").tobytes(), total)
    for name, values in tensors(family):
        total = zlib.crc32(name.encode() + values.astype("<f4").tobytes(), total)
    return total


def load() -> dict[str, np.ndarray]:
    """What make_golden.py stored: for each name, NAME float32 [T, V], and `NAME about`, [noise, checksum]."""
    with np.load(GOLDEN / "families.npz") as stored:
        return dict(stored)


def write_folder(family: Family, path: Path, transformers: bool = False) -> Path:
    """Writes the model as a Hugging Face folder (config and weights) to `path` and returns it.

    transformers: with the config that it `runs_as`.
    """
    path.mkdir(parents=True, exist_ok=True)
    config = family.runs_as if transformers and family.runs_as else family.config
    (path / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    _write_safetensors(path / "model.safetensors", dict(tensors(family)), "F32")
    return path
