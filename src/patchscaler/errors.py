"""The exceptions that reach users: a line that names the thing and the hint."""


class PatchScalerError(Exception):
    """An error the user can fix. Its text is printed as it stands, without a traceback."""


class TooManyPixelsError(PatchScalerError):
    """A picture of more pixels than allowed.

    Its text is the command line's; others may say it in their own words.
    """

    def __init__(self, text: str, width: int, height: int, limit: int):
        super().__init__(text)
        self.width, self.height, self.limit = width, height, limit
