"""The error that a person, not a programmer, is meant to read."""


class UserError(Exception):
    """Something the user can put right: bad input, a missing file, a bad setting.

    Launchers print its text as one clear line and exit with status 1; the text says
    what is wrong, with the values, and what to do about it.
    """
