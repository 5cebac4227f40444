"""What users call: `load` a model folder, then `chat`, `generate`, `stream` or `logits`."""

from __future__ import annotations

import os
import reprlib
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from lepton_edge.embedded import model_folder
from lepton_edge.errors import Cancelled, RequestError, UnsupportedModelError
from lepton_edge.generate.background import TokenizerLoad
from lepton_edge.generate.ids import numbers, token_ids
from lepton_edge.generate.params import SamplingParams, whole
from lepton_edge.generate.shared import SharedEngine, Use
from lepton_edge.generate.stream import Piece, all_logits, stream
from lepton_edge.generate.whole import encode_all, hidden_states
from lepton_edge.tasks import Tasks

if TYPE_CHECKING:
    from lepton_edge.checkpoint import Checkpoint
    from lepton_edge.generate.chat import Answer, ChatPiece, ChatPrompts
    from lepton_edge.models.spec import ModelSpec
    from lepton_edge.runtime import Engine
    from lepton_edge.text import Tokenizer

__all__ = ["LeptonModel", "Model", "Piece", "load"]

CHOSEN = Use.CHOSEN
Ids = Sequence[SupportsIndex] | NDArray[np.integer[Any]]
Prompt = str | Ids


def load(
    path: str | PathLike[str] | None = None,
    format: str | None = None,
    threads: int | None = None,
    isa: str | None = None,
    kv_dtype: str | None = None,
    context: int | None = None,
    notify: Callable[[str], None] | None = None,
    device: str = "cpu",
) -> Model:
    """Open a model; nothing is ever downloaded.

    Args:
        path: a Hugging Face folder (config.json, *.safetensors, tokenizer.json), packed or not; or the name of an
            embedded model; None: the embedded default.
        format: hold the weights as 'f32', 'f16', 'bf16', 'q8' or 'q4'; None: as they are stored.  Experts in MXFP4
            stay so where the format is packed.
        threads: threads to compute with; None: the performance cores.
        isa: instruction set, see `lepton doctor`; None: the best that this CPU has.
        kv_dtype: number format of the cache of keys and values: 'f16', 'q8' (half the bytes), 'f32'; None: 'f32' where
            the weights are, else 'f16'.
        context: positions to make room for, at most the model's own; None: the model's own.
        notify: called with a line of text when something takes long: the kernels are compiled, once on each machine,
            in about ten seconds, or MXFP4 experts are packed; None: the line goes to stderr.
        device: 'cpu', or 'cuda' for an NVIDIA GPU, with `pip install 'lepton-edge[cuda]'`.
    Raises:
        ModelError: the folder is missing, damaged, or of a kind that is not supported.
        RequestError: an argument is wrong.
        MachineError: this machine lacks something.
    """
    for name, text in (("format", format), ("isa", isa), ("kv_dtype", kv_dtype), ("device", device)):
        if not isinstance(text, str) and (text is not None or name == "device"):
            raise RequestError(f"{name} is {reprlib.repr(text)}; expected a string or None")
    threads = None if threads is None else whole("threads", threads, 1)
    context = None if context is None else whole("context", context, 1)
    folder = model_folder(path)

    from lepton_edge.checkpoint import Checkpoint
    from lepton_edge.models.registry import spec_of
    from lepton_edge.runtime import engine_for

    kind = engine_for(device)
    checkpoint = Checkpoint.open(folder)
    try:
        spec = spec_of(checkpoint)
        if nbytes := sum(checkpoint.stored_bytes(name) for name in checkpoint.names if checkpoint.is_mxfp4(name)):
            (notify or _tell)(
                f"{nbytes / 1e9:.1f} GB of MXFP4 experts are packed in memory; `lepton quantize` does that once, and "
                "keeps them exactly"
            )
        defaults = SamplingParams.from_generation_config(
            checkpoint.generation_config, str(folder / "generation_config.json")
        )
        tokenizer = TokenizerLoad(folder, spec.vocab)
        engine = kind.load(
            checkpoint,
            spec,
            format=format,
            threads=threads,
            isa=isa,
            kv_dtype=kv_dtype,
            context=context,
            notify=notify or _tell,
        )
    except BaseException:
        checkpoint.close()
        raise
    model = Model(checkpoint, spec, engine, tokenizer, defaults)
    if tokenizer.quick:
        try:
            tokenizer.result()
        except BaseException:
            model.close()
            raise
    return model


def _tell(line: str) -> None:
    if sys.stderr is not None:  # as in a program without a console
        print(f"lepton: {line}", file=sys.stderr, flush=True)


class Model(Tasks):
    """A loaded model. Every method may be called from any thread; steps of concurrent requests take turns.

    Use it in a `with` statement, or call `close`, to give its memory back at once.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        spec: ModelSpec,
        engine: Engine,
        tokenizer: TokenizerLoad,
        defaults: SamplingParams,
    ) -> None:
        self._checkpoint = checkpoint
        self._spec = spec
        self._shared = SharedEngine(engine)
        self._tokenizer = tokenizer
        self._defaults = defaults
        self._prompts: ChatPrompts | None = None

    @staticmethod
    def load_pretrained_model(path: str | PathLike[str] | None = None, **options: Any) -> Model:
        """`load` under another name, with the same arguments: a folder, or the name of an embedded model."""
        return load(path, **options)

    @property
    def folder(self) -> Path:
        """The folder that the model was loaded from."""
        return self._checkpoint.folder

    @property
    def spec(self) -> ModelSpec:
        """The model's shape and features, as read from config.json."""
        return self._spec

    @property
    def engine(self) -> Engine:
        """What computes the model; not for use while a request runs."""
        return self._shared.engine

    @property
    def format(self) -> str:
        """The weight format, such as 'q4'."""
        return self._shared.engine.format

    @property
    def context(self) -> int:
        """The longest prompt, in tokens; prompt and text share it."""
        return self._shared.engine.context

    @property
    def vocab(self) -> int:
        """V, the number of token ids; the tokenizer may know fewer."""
        return self._shared.engine.vocab

    @property
    def defaults(self) -> SamplingParams:
        """What `generate` and `stream` use where nothing is asked for: generation_config.json, else SamplingParams."""
        return self._defaults

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back. Raises TokenizerError when the folder has none, or a damaged one."""
        return self._tokenizer.result()

    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repeat_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        adapter: str | Use | None = CHOSEN,
    ) -> str:
        """The text that continues a prompt: `prompt + text` reads on, so it may begin with a space.

        What is None comes from the model's generation_config.json, else from `SamplingParams`: greedy unless the model
        says otherwise or a temperature above 0 is given; at most 256 tokens.

        Args:
            prompt: text, which gets the tokenizer's special tokens (BOS); or token ids, taken as they are.
            max_tokens, temperature, top_k, top_p, min_p, repeat_penalty, seed, stop: see `SamplingParams`.
            adapter: the name of a loaded adapter; None: the model alone; by default what `use_adapter` chose.
        Raises:
            RequestError: an argument is wrong, or the prompt is empty.
            ContextLengthError: the prompt is longer than the context; nothing is ever cut off.
            Cancelled: `cancel` was called.
        """
        options: dict[str, Any] = dict(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
                                       min_p=min_p, repeat_penalty=repeat_penalty, seed=seed, stop=stop)  # fmt: skip
        if self._spec.encoder is not None:
            from lepton_edge.tasks.translate import writing

            self._shared.begin(adapter=adapter)  # no name is known to these models
            work = writing(self, **options)
            return work.run([work.prepare(prompt)])[0]
        pieces = list(self.stream(prompt, adapter=adapter, **options))
        if pieces[-1].finish_reason == "cancelled":
            raise Cancelled("the request was cancelled")
        return "".join(piece.text for piece in pieces)

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repeat_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        adapter: str | Use | None = CHOSEN,
    ) -> Generator[Piece, None, None]:
        """As `generate`, but one `Piece` for each token, as soon as it is there; the last one has a finish_reason.

        After `cancel` the last piece says 'cancelled'. A stream that is not read to its end is freed when it is closed
        or garbage collected. Arguments are checked at once, before the first piece is asked for. Encoder-decoders whose
        folder asks for several beams are refused: `stream_translate` and `stream_summarize` take beams=1.
        """
        options: dict[str, Any] = dict(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
                                       min_p=min_p, repeat_penalty=repeat_penalty, seed=seed, stop=stop)  # fmt: skip
        if self._spec.encoder is not None:
            from lepton_edge.tasks.translate import writing

            return writing(self, **options).stream(prompt, adapter)
        self._need_text()
        sequence = self._shared.begin(adapter=adapter)
        params = self._defaults.given(**options)
        return stream(sequence, self.tokenizer, self._prompt(prompt), params)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        *,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        template_values: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repeat_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        adapter: str | Use | None = CHOSEN,
    ) -> Answer:
        """The model's answer to a conversation, which the model folder's chat template turns into a prompt.

        The conversation stays in the cache: the next call computes only what is new in it. Add `answer.message` to the
        messages for the next turn. The package jinja2 is needed: pip install 'lepton-edge[chat]'.

        Args:
            messages: dicts with a role ('system', 'developer', 'user', 'assistant' or 'tool') and a content (text, or a
                list of {"type": "text", "text": …}); an assistant's may have tool_calls, a tool's are results.
            tools: what the model may call: Python functions with type hints and a docstring that has an Args section,
                or JSON schemas. The calls it asks for are in `answer.tool_calls`; nothing is called.
            documents: dicts with title and text, for templates that have a place for them.
            template: the name of one of the folder's templates; None: 'tool_use' with tools, where there is one, else
                the default.
            template_values: what the template knows besides, such as {"enable_thinking": False}.
            max_tokens: None: the model's own (max_new_tokens), else what the context has room for.
            temperature, top_k, top_p, min_p, repeat_penalty, seed, stop: see `SamplingParams`; what is None comes from
                the model's generation_config.json.
            adapter: as of `generate`.
        Raises:
            RequestError: an argument is wrong, or the template refuses the messages.
            TemplateError: the folder has no chat template, or it failed.
            ContextLengthError: the conversation is longer than the context; nothing is ever cut off.
            MachineError: jinja2 is missing.
            Cancelled: `cancel` was called.
        """
        pieces = self.stream_chat(
            messages,
            tools,
            documents=documents,
            template=template,
            template_values=template_values,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
            stop=stop,
            adapter=adapter,
        )
        from lepton_edge.generate.chat import Answer

        made = Answer.of(pieces)
        if made.finish_reason == "cancelled":
            raise Cancelled("the request was cancelled")
        return made

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        *,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        template_values: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repeat_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        adapter: str | Use | None = CHOSEN,
    ) -> Generator[ChatPiece, None, None]:
        """As `chat`, but one `ChatPiece` for each token, as soon as it is there; `Answer.of(pieces)` joins them.

        After `cancel` the last piece says 'cancelled'. Arguments are checked at once, as in `stream`.
        """
        from lepton_edge.generate.chat import ChatPrompts, answer

        self._need_text()
        sequence = self._shared.begin(keep=True, adapter=adapter)
        if max_tokens is None and self._checkpoint.generation_config.get("max_new_tokens") is None:
            max_tokens = self.context
        params = self._defaults.given(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
            stop=stop,
        )
        if self._prompts is None:
            self._prompts = ChatPrompts(self.folder, self.tokenizer)
        prompt = self._prompts.make(messages, tools, documents, template, template_values)
        return answer(sequence, self.tokenizer, prompt, self._ids("the conversation", prompt.ids), params)

    def logits(
        self,
        token_ids: Ids,
        *,
        adapter: str | Use | None = CHOSEN,
    ) -> NDArray[np.float32]:
        """The model's raw scores: float32 [T, V], row t for the token that follows token_ids[: t + 1].

        adapter: as of `generate`.

        Raises:
            RequestError: no token, or one outside the vocabulary; no such adapter.
            ContextLengthError: more tokens than the context.
            Cancelled: `cancel` was called.
        """
        self._need_text()
        return all_logits(self._shared.begin(adapter=adapter), self._ids("token_ids", token_ids))

    def run(
        self, sequences: Sequence[Ids], segments: Sequence[Ids] | None = None, hidden: bool = False
    ) -> list[NDArray[np.float32]]:
        """What an encoder gives of whole sequences of token ids, special tokens included: one array for each.

        Float32 [T, N] where the model's head is for each token, else [N]; with `hidden`, the final hidden states
        [T, H], which decoders give as well.  segments: 0 or 1 for each token, for models that tell two texts apart.

        Raises:
            RequestError: an argument is wrong, or the model has no such head.
            ContextLengthError: a sequence is longer than the context.
            Cancelled: `cancel` was called.
        """
        lists = [self._ids(f"sequence {i}", ids) for i, ids in enumerate(sequences)]
        if self._spec.causal:
            self._need_text()
            if segments is not None or not hidden:
                raise RequestError("decoders have no segments, and give hidden states or text: run(…, hidden=True)")
            return [hidden_states(self._shared, ids) for ids in lists]
        kinds = None if segments is None else [numbers(f"segments {i}", row) for i, row in enumerate(segments)]
        return encode_all(self._shared, lists, kinds, hidden)

    def load_adapter(self, path: str | PathLike[str], name: str) -> None:
        """Read a PEFT LoRA folder (adapter_config.json, adapter_model.safetensors), to be used under a name.

        The weights stay as they are, packed or not, and the adapter is computed beside them. Requests may run
        meanwhile; after an error nothing has changed. `use_adapter`, or `adapter=` of a request, puts it to use.

        Raises:
            ModelError: the folder is missing or damaged, does not fit this model, or asks for what is not supported.
            RequestError: the name is taken.
        """
        from lepton_edge.adapters import read_adapter
        from lepton_edge.models.registry import spec_from_config

        if not isinstance(path, str | PathLike):
            raise RequestError(f"path is {reprlib.repr(path)}; expected an adapter's folder")
        if not self._spec.causal:
            raise UnsupportedModelError(
                f"{path}: adapters for {self._spec.family} models, which are encoders, are not supported; merge it into"
                " the model's weights first"
            )
        folder = Path(os.path.expanduser(path))
        names = spec_from_config(self._checkpoint.config, str(self.folder / "config.json")).names
        self._shared.add_adapter(name, lambda: read_adapter(folder, self._spec, names))

    def use_adapter(self, name: str | None) -> None:
        """Use an adapter for requests from now on that do not name one; None: the model alone. Raises RequestError."""
        self._shared.use_adapter(name)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; requests that use it go on with it. Raises RequestError."""
        self._shared.remove_adapter(name)

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters that are loaded."""
        return self._shared.adapters

    def cancel(self) -> None:
        """Stop every request made so far, from any thread or a signal handler; later ones are not affected.

        Their streams end with finish_reason 'cancelled'; `generate` and `logits` raise Cancelled.
        """
        self._shared.cancel()

    def close(self) -> None:
        """Stop all requests and free the model; a second call does nothing."""
        self._shared.close()
        self._checkpoint.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<lepton_edge.Model {self.folder.name}: {self._spec.family}, {self.format}, context {self.context}>"

    def _prompt(self, prompt: Prompt) -> NDArray[np.int32]:
        if not isinstance(prompt, str):
            return self._ids("prompt", prompt)
        ids = self.tokenizer.encode(prompt)
        if not ids:
            raise RequestError("prompt is empty, and this model's tokenizer adds no token to it; expected some text")
        return self._ids("prompt", ids)

    def _ids(self, name: str, ids: Iterable[SupportsIndex]) -> NDArray[np.int32]:
        return token_ids(name, ids, self.vocab, self.context)

    def _need_text(self) -> None:
        if self._spec.encoder is not None:
            raise RequestError(
                f"{self._spec.family} models answer a source; use generate, stream, translate or summarize, or "
                "engine.remember"
            )
        if not self._spec.causal:
            use = "transcribe or stream_transcribe" if self._spec.target else "run, or a task such as embed or classify"
            raise RequestError(f"{self._spec.family} models write no text; use {use}")


LeptonModel = Model
