"""The launcher: starts the model server and the client as processes for `make run`.

It runs the commands that a user would type and imports none of the packages they start.
"""
