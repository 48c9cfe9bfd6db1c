"""The training job: read → fit → evaluate → gate → publish.

It shares only one format with the other packages: the SavedModel version directory.
"""
