"""What the arguments of the public calls, the URL and the environment may say: checked here, before any IO."""
