"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """The input or the configuration is wrong, and the message says what, where and what to do.

    The command line prints the message as one `error: ...` line and exits with 2. Everything else that is raised is a bug
    of jaxbert and keeps its traceback.
    """
