"""The launcher: starts the model server and the client as processes for `make run`.

It starts the rooms as the commands a user would type, and imports none of them.
"""
