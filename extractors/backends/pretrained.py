"""Loads a model of the `transformers` library from a local folder; nothing is fetched, and nothing left random."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from extractors.backends.devices import choose_device
from extractors.errors import ConfigError, WeightsError

HalfPrecision = Literal["auto", "fp32", "bf16"]
"""auto: bf16 on a CUDA device, fp32 elsewhere."""


def check_transformers(backend: str, needed: str) -> None:
    """Raises ConfigError where `transformers` is not installed, lacks the class `needed`, or cannot be imported."""
    try:
        import transformers

        getattr(transformers, needed)
    except Exception as error:  # what a package that does not fit another raises is its own affair
        cause = _first_cause(error)
        if "torchvision" in f"{cause}{_raised_in(cause)}" and importlib.util.find_spec("torchvision") is not None:
            raise ConfigError(
                f"masks.backend={backend}: the torchvision that is installed does not fit torch {torch.__version__} "
                f"({type(cause).__name__}: {cause}); install the torchvision of the same build, or `pip uninstall "
                "torchvision`, which this backend does not need"
            ) from error
        if not isinstance(cause, ImportError | AttributeError):
            raise ConfigError(
                f"masks.backend={backend}: transformers cannot be imported ({type(cause).__name__}: {cause}); mend "
                "that package, or take masks.backend=nano"
            ) from error
        raise ConfigError(
            f"masks.backend={backend} needs the transformers package with {needed} ({error}); install cuepack's extra "
            "`sam`, or take masks.backend=nano"
        ) from error


def _first_cause(error: BaseException) -> BaseException:
    """What an exception comes from: `transformers` wraps what its imports raise, twice and with another meaning."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _raised_in(error: BaseException) -> str:
    """The file that raised an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename if frames else ""


def choose_precision(precision: str, device: str) -> tuple[torch.device, str, torch.dtype]:
    """The device, the precision resolved ("fp32" or "bf16"), and its dtype.

    Raises:
        ConfigError: there is no such device or precision.
    """
    where = choose_device(device)
    if precision == "auto":
        precision = "bf16" if where.type == "cuda" else "fp32"
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if precision not in types:
        raise ConfigError(f"no precision {precision!r} of masks; choose auto, fp32 or bf16")
    return where, precision, types[precision]


def load_pretrained(
    model_class: Any,
    folder: Path,
    *,
    model_types: tuple[str, ...],
    advice: str,
    dtype: torch.dtype,
    unused: tuple[str, ...] = (),
) -> Any:
    """The model in eval mode on the CPU, with every one of its weights from `folder`.

    Args:
        model_class: of `transformers`, with `from_pretrained`.
        folder: with config.json and model*.safetensors.
        model_types: `model_type` in config.json of the models this may be.
        advice: how to get the weights, or do without.
        dtype: of the weights.
        unused: parts of names of weights that no result depends on, so that they may be missing.

    Raises:
        WeightsError: the folder is not there, is another model's, or lacks weights.
    """
    check_model_type(folder, model_types, advice)
    try:
        with quiet():
            # Without strictness of our own the library would fill what is missing with random numbers and go on.
            model, info = model_class.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=dtype
            )
    except Exception as error:  # a damaged folder makes the library raise many kinds
        first_line = str(error).splitlines()[0][:200] if str(error) else ""
        raise WeightsError(
            f"weights in {folder} cannot be loaded ({type(error).__name__}: {first_line}); {advice}"
        ) from error
    missing = sorted(name for name in info["missing_keys"] if not any(part in name for part in unused))
    wrong = sorted(str(each[0]) for each in info["mismatched_keys"])
    if missing or wrong:
        raise WeightsError(
            f"weights in {folder} do not fit {model_class.__name__}: {len(missing)} are missing, {len(wrong)} have "
            f"another shape ({', '.join((missing + wrong)[:3])}); {advice}"
        )
    return model.requires_grad_(False).eval()


def check_model_type(folder: Path, model_types: tuple[str, ...], advice: str) -> dict[str, Any]:
    """config.json of `folder`.

    Raises:
        WeightsError: it is missing, not JSON, or another model's.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise WeightsError(f"{folder} is not a model folder: it has no config.json; {advice}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        found = config["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{file} cannot be read ({error!r}); {advice}") from error
    if found not in model_types:
        raise WeightsError(f"{folder} holds a model of type {found!r}, wanted {' or '.join(model_types)}; {advice}")
    return dict(config)


def load_tokenizer(tokenizer_class: Any, folder: Path, advice: str, *, most_words: int) -> Any:
    """The tokenizer of `folder`, offline.

    Raises:
        WeightsError: its files are missing, damaged, or have more words than the model's `most_words`.
    """
    # Without them the library makes a tokenizer that knows no word, and says nothing.
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")):
        raise WeightsError(f"{folder} has no tokenizer: wanted tokenizer.json, vocab.json or vocab.txt; {advice}")
    try:
        with quiet():
            tokenizer = tokenizer_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # see load_pretrained
        first_line = str(error).splitlines()[0][:200] if str(error) else ""
        raise WeightsError(
            f"{folder} has no usable tokenizer ({type(error).__name__}: {first_line}); {advice}"
        ) from error
    if len(tokenizer) > most_words:
        raise WeightsError(
            f"the tokenizer of {folder} has {len(tokenizer)} words, its model {most_words}: they do not belong "
            f"together; {advice}"
        )
    return tokenizer


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the library's progress bars and warnings, which would break our own output."""
    from transformers.utils import logging as library_logging

    logging: Any = library_logging  # untyped
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
