"""A second port for the official SDKs, whose message ids a stock nats-server ignores."""
