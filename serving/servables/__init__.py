"""SavedModels: loading them, computing with them, and answering requests from them."""
