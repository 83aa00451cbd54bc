"""Networks and image operators (not ORM tables, not request bodies)."""
