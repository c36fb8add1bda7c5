"""A remote tree behind one small interface, and what is kept beside it there."""
