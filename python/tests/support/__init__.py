"""The functions and objects that tests send to workers. Workers import it, so it imports little."""
