"""A second listener for the official SDKs, whose message ids a stock nats-server does not know."""
