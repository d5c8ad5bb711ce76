"""Every exception that cuepack raises on purpose.

    CuepackError
    ├── ConfigError          bad usage or configuration: refused at once (exit 2)
    │   ├── UnknownCameraError   no episode of the source has that camera
    │   └── WeightsError         weights that a backend needs are missing or wrong
    ├── SourceError          the whole source cannot be read (exit 2)
    ├── EpisodeError         one episode cannot be used; the batch goes on
    │   ├── CorruptDataError     a file that is there cannot be decoded
    │   ├── MissingDataError     a file, column or frame that should be there is not
    │   │   └── UnreachableDataError a remote file could not be fetched; it may be there next time
    │   ├── LengthMismatchError  parts of one episode disagree about its length
    │   ├── UnsafePickleError    a pickle asks for more than arrays and containers
    │   ├── BlankCameraError     the chosen camera shows nothing
    │   └── DeviceMemoryError    the device ran out of memory for this episode
    ├── ShapeError           an array has another shape or type than asked for
    ├── GeometryError        a camera or point set for which the answer is not defined
    ├── PacketError          a file is no packet, or a damaged one
    ├── RemoteError          a URI cannot be used; callers turn it into one of the others
    │   └── RemoteMissingError   there is nothing behind it
    └── OutputError          the output directory cannot be written (disk full, permissions)

A message says what was wanted, what came, and what to do. Each class also inherits the builtin that a caller expects.
"""

from __future__ import annotations

from extractors.printable import printable


class CuepackError(Exception):
    """Base of all errors raised on purpose; its text is fit for a terminal."""

    def __str__(self) -> str:
        return printable(self.args[0] if len(self.args) == 1 else super().__str__(), lines=True)


class ConfigError(CuepackError, ValueError):
    """Bad usage or configuration, found before any work starts."""


class UnknownCameraError(ConfigError):
    """A camera was asked for that no episode of the source has."""


class WeightsError(ConfigError, FileNotFoundError):
    """Weights are missing, truncated, or of another model.

    `ConfigError` and `FileNotFoundError` lay their instances out differently, so the text is kept in `args`.
    """

    def __str__(self) -> str:
        return printable(self.args[0], lines=True) if self.args else ""


class SourceError(CuepackError, ValueError):
    """The source as a whole cannot be read, or its kind is not recognised."""


class EpisodeError(CuepackError, RuntimeError):
    """One episode cannot be used."""


class CorruptDataError(EpisodeError):
    """A file that is present cannot be decoded, or holds less than it claims."""


class MissingDataError(EpisodeError):
    """A file, column or frame that the episode needs is absent."""


class UnreachableDataError(MissingDataError):
    """A file of the episode lies on a remote that did not give it; the next run asks again."""


class LengthMismatchError(EpisodeError):
    """Images, states and actions of one episode disagree about its length."""


class UnsafePickleError(EpisodeError):
    """A pickle that would run code, or hold objects, was refused unopened."""


class BlankCameraError(EpisodeError):
    """The chosen camera's frames are all black."""


class DeviceMemoryError(EpisodeError, MemoryError):
    """The device ran out of memory on this episode, with the smallest batch too."""


class ShapeError(CuepackError, ValueError):
    """An array has another shape or dtype than asked for."""


class GeometryError(CuepackError, ValueError):
    """The geometry asked for is not defined (focal length of zero, no points)."""


class PacketError(CuepackError, ValueError):
    """A file is not a packet, has another schema version, or is damaged."""


class RemoteError(CuepackError, RuntimeError):
    """What lies behind a URI cannot be listed or fetched."""


class RemoteMissingError(RemoteError):
    """Nothing lies behind a URI."""


class OutputError(CuepackError, OSError):
    """The output directory cannot be written."""

    def __str__(self) -> str:
        return printable(self.args[0], lines=True) if self.args else ""
