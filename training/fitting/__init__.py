"""From a table and settings to fitted parameters."""
