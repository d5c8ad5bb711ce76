"""The bundled sample: simulated pick-and-place episodes with exact ground truth, and a way to copy them out."""

from __future__ import annotations

from pathlib import Path

from extractors.errors import ConfigError, OutputError
from packers.atomic import TEMPORARY, write_whole

SAMPLE = Path(__file__).resolve().parent
"""The folder of this package, which holds the data."""

SOURCES = ("bridge_raw", "lerobot_v30")
"""The same episodes in two layouts; each folder is a SOURCE for `cuepack extract`."""

FOLDERS = (*SOURCES, "truth")
README = "README.md"


def sample_files() -> list[Path]:
    """Every file of the sample, relative to `SAMPLE`, in name order."""
    inside = (path for folder in FOLDERS for path in (SAMPLE / folder).rglob("*") if path.is_file())
    return sorted([Path(README), *(path.relative_to(SAMPLE) for path in inside)])


def write_sample(out: Path) -> list[Path]:
    """Copy the sample into `out`, made where it does not exist; a repeated call writes only what is missing.

    Args:
        out: a new or empty folder, or one that holds the sample, or part of it, and nothing else.

    Returns:
        The folders under `out`: `bridge_raw` and `lerobot_v30`, each a source, and `truth`.

    Raises:
        ConfigError: `out` is a file, or holds something that is not the sample; nothing was written.
        OutputError: `out` cannot be written; what was copied so far is whole.
    """
    files = sample_files()
    try:
        missing = _missing(out, files)
        for file in missing:
            _copy(SAMPLE / file, out / file)
    except (ConfigError, OutputError):
        raise
    except OSError as error:
        raise OutputError(
            f"the sample cannot be written to {out}: {error}; free space or choose another --out"
        ) from error
    return [out / folder for folder in FOLDERS]


def _missing(out: Path, files: list[Path]) -> list[Path]:
    """The files that `out` lacks; refuses a folder with anything else in it."""
    if not out.exists():
        return files
    if not out.is_dir():
        raise ConfigError(f"--out should be a folder for the sample, {out} is a file; choose another")
    sample_files = set(files)
    for path in list(out.rglob("*")):
        name = path.relative_to(out)
        if path.is_dir() and not path.is_symlink():
            continue
        if path.name.startswith(TEMPORARY):  # a call that was killed left it
            path.unlink()
            continue
        if name not in sample_files or path.read_bytes() != (SAMPLE / name).read_bytes():
            raise ConfigError(
                f"--out should be a new or empty folder, or one that holds the sample unchanged; {out} has a file of "
                f"its own, {name}; choose another folder"
            )
    return [file for file in files if not (out / file).exists()]


def _copy(source: Path, target: Path) -> None:
    """Copy so that a file of the right name is always whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, source.read_bytes())
