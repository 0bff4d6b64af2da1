"""The default model's name, apart from the registry so that `--help` needs nothing heavy."""

DEFAULT_MODEL = "compact"
