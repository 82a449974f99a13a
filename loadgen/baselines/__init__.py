"""What a competent user would run today, measured beside the server."""
