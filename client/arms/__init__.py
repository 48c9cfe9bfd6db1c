"""Arms of a rollout: the choice of the version that answers, and the fallback if it cannot."""
