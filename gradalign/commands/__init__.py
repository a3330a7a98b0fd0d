"""What each command does: one module a command, whose `run` goes from the parsed arguments to the exit status.

Nothing heavy is imported before it is needed, so that help and wrong paths are answered at once.
"""
