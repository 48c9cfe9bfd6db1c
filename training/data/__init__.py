"""From files to rows: readers, the split, the row store, the table."""
