"""What a column is, and how its cells become features."""
