"""The fitted model as a SavedModel."""
