"""The launcher: starts the model server and the client as processes for `make run`.

It imports no other package and runs the commands that a user would type.
"""
