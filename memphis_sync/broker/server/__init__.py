"""The child process nats-server, what is started and ended with it, and the whole broker as a child of a program."""
