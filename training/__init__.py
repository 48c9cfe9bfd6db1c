"""The training job: read → fit → evaluate → publish.

It meets the other rooms in one public format only, the SavedModel version directory.
"""
