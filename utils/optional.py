"""Libraries that only some commands need (requirements-extras.txt)."""

import importlib
from types import ModuleType

from utils.errors import ConfigError


def needed(module: str, what: str) -> ModuleType:
    """Import `module`, without which `what` cannot be done. Raises ConfigError, with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(f"{what} needs {package}, which is not installed: pip install {package}") from error
