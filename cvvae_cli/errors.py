"""Every error a user can meet. Each is also a built-in error, and carries a hint that says what to do."""


class CvvaeError(Exception):
    """What was found, in one sentence; `hint` says what to do about it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class SourceNotFoundError(CvvaeError, FileNotFoundError):
    """The input path does not exist."""


class UnreadableSourceError(CvvaeError, ValueError):
    """The input exists, but holds no video or picture that can be read."""


class OutputExistsError(CvvaeError, FileExistsError):
    """The output path is taken, and --force was not given."""


class OutputNotWritableError(CvvaeError, OSError):
    """The output cannot be created or written: folder, permission or full disk."""


class CorruptFileError(CvvaeError, ValueError):
    """The .cvl bytes contradict FORMAT.md."""


class UnsupportedFormatError(CvvaeError, ValueError):
    """The .cvl file is sound, but of a version or with a coder that this program does not know."""


class UnknownModelError(CvvaeError, KeyError):
    """No model of that name."""


class WeightsError(CvvaeError, ValueError):
    """Weights are missing, damaged, or not the ones a file was encoded with."""


class DeviceError(CvvaeError, RuntimeError):
    """The device or number type asked for is not available."""


class NonFiniteError(CvvaeError, ArithmeticError):
    """A network gave NaN or infinity, in fp32 too."""


class ConfigError(CvvaeError, ValueError):
    """A training recipe or an option has a wrong key or value."""


class DownloadError(CvvaeError, ConnectionError):
    """A file could not be fetched, or is not the one expected."""


class MismatchError(CvvaeError, ValueError):
    """Two videos that should be compared differ in size or length."""
