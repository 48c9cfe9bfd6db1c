"""The launcher: starts the model server and the client as processes for `make run`.

It runs the packages with the commands a user would type, and imports none of them.
"""
