"""What an administrator asks of a running router: the service, its port, and the commands."""
