"""Suite ``mixed``: many sizes, step counts and guidances at once, and the highest rate each system bears."""
