"""Configuration: one declaration of every key, read from flags, environment and a TOML file.

Texts come in, one frozen :class:`~edm.config.load.Config` goes out. A new key is one attribute in
:mod:`edm.config.schema`; a rule about several keys is a function in :mod:`edm.config.validate`.
"""

from edm.config.key import Key
from edm.config.load import Changes, Config, default_path, diff, load
from edm.config.schema import KEYS, Settings

__all__ = ["KEYS", "Changes", "Config", "Key", "Settings", "default_path", "diff", "load"]
