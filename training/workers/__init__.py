"""One fit spread over several processes."""
