"""The child process nats-server and its supervisor, and the whole broker as a child process of a program."""
