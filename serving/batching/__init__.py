"""Computing the requests that wait together in one batch."""
