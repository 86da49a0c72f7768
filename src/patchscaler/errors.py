"""The one exception that reaches users: a line that names the thing and the mend."""


class PatchScalerError(Exception):
    """An error the user can mend. Its text is printed as it stands, without a traceback."""
