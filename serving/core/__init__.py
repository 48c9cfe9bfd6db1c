"""Versions of models: found, loaded, served and unloaded, whatever they are made of."""
