"""What the tests send to workers. Workers import it, so it imports little."""
