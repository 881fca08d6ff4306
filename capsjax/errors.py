"""The errors that address the user, not the programmer."""


class UserError(Exception):
    """An error that the user can fix: bad input, a missing file, a wrong setting.

    Launchers print its text as one line and exit with status 1; the text says what is
    wrong, with the values, and how to fix it.
    """


class NotApplicableError(Exception):
    """An analysis or attack that a network has nothing for, with the reason."""


class SettingsError(ValueError):
    """Settings of a layer or a model that do not fit together, or not the images.

    `capsjax.models.build` turns it into a `UserError`. Other errors in a model's code
    are the code's, and keep their traceback.
    """
