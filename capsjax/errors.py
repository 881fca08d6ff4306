"""The error that addresses the user, not the programmer."""


class UserError(Exception):
    """An error that the user can fix: bad input, a missing file, a wrong setting.

    Launchers print its text as one line and exit with status 1; the text says what is
    wrong, with the values, and how to fix it.
    """
