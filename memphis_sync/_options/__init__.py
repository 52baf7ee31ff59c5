"""The arguments of the public calls, the URL and the environment: checked here, before any IO."""
