"""What a user did wrong, told in one sentence."""


class UserError(Exception):
    """Bad input: the message says what is wrong, what is allowed and what to do; shown without a traceback."""
