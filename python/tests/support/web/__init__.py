"""Services for the tests with real servers, one for each framework. Each has the same addresses."""
