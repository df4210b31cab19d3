"""The service with its servers, vendors and browsers, as its tests need it."""
