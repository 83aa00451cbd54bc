"""`$review`: the human's last word on what a machine wrote."""
