"""Errors a user can act on.

Every message says what was found, what was allowed, and what to change. Programs print these messages without
a traceback; anything else that is raised is a defect of anyshot and is shown whole.
"""


class AnyshotError(Exception):
    """Base of all errors that a user can mend."""


class ConfigError(AnyshotError):
    """The configuration is wrong: an unknown key, a wrong type, a contradiction."""


class DataError(AnyshotError):
    """An image, a mask, a list or a class table is missing, broken or inconsistent."""


class ArtifactError(AnyshotError):
    """A file that a stage wrote is missing, incomplete, or belongs to another run."""


class WeightsError(AnyshotError):
    """A weights file does not fit the network, the classes or the split."""
