"""The command line of the rollout."""
