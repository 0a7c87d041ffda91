"""The HTML page of the server."""
