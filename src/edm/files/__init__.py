"""Reading and publishing files safely, whatever they hold."""
