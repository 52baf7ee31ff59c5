"""A small shop as users build it: a Django project with one app, which tests run in servers and by its commands."""
