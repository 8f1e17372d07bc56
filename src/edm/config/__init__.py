"""Configuration: one declaration of every key, read from flags, environment and a TOML file."""

from edm.config.key import Key
from edm.config.load import Changes, Config, default_path, diff, load
from edm.config.schema import KEYS, Settings

__all__ = ["KEYS", "Changes", "Config", "Key", "Settings", "default_path", "diff", "load"]
