"""Share one fit between several processes."""
